// A trained network in ONNX format, run by ONNX Runtime (https://onnxruntime.ai, MIT licence) in WebAssembly.
import {MODELS} from './models/models.js'
import * as ort from './ort/ort.wasm.min.mjs'

const here = name => new URL(name, import.meta.url)
const loaded = {}
let bytesRead = 0

async function read(url, tell) {                            // a file, telling how many bytes have come
  const answer = await fetch(url), parts = []
  if (!answer.ok) throw new Error(`${url} did not come: ${answer.status}`)
  for (const reader = answer.body.getReader();;) {
    const {done, value} = await reader.read()
    if (done) break
    parts.push(value)
    tell(bytesRead += value.length)
  }
  return new Blob(parts).arrayBuffer()
}

let runtime = null
async function open(name, tell) {
  runtime ??= read(here('ort/ort-wasm-simd-threaded.wasm'), tell)
  const [wasm, file] = await Promise.all([runtime, read(here(`models/${name}.onnx`), tell)])
  Object.assign(ort.env.wasm, {numThreads: 1, wasmBinary: wasm})
  const session = await ort.InferenceSession.create(file)
  const [channels, ...sides] = session.inputMetadata[0].shape.slice(1)
  const pixels = channels * sides[0] * sides[1], noLabel = MODELS[name].classes.length
  async function answers(x, sigma, labels) {                // D(x; sigma) with each of the labels
    const n = labels.length, same = new Float32Array(n * pixels)
    for (let i = 0; i < n; i++) same.set(x, i * pixels)
    const {denoised} = await session.run({
      x: new ort.Tensor('float32', same, [n, channels, ...sides]),
      sigma: new ort.Tensor('float32', new Float32Array(n).fill(sigma), [n]),
      label: new ort.Tensor('int64', BigInt64Array.from(labels, BigInt), [n])})
    return labels.map((_, i) => denoised.data.slice(i * pixels, (i + 1) * pixels))
  }
  await answers(new Float32Array(pixels), 1, [noLabel])     // the first call takes longer: nobody waits for it
  return {answers, pixels, noLabel}
}

export function load(name, tell) { return loaded[name] ??= open(name, tell) }
