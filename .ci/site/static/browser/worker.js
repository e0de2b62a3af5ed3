// Draws beside the page, so that the page stays alive. Each message is a task: a model and, unless the model is only to
// be loaded, a method and its settings. Each step is told to the page. A new task ends the one before.
import {guide, projected} from './denoisers.js'
import {keyedNoise} from './noise.js'
import {load} from './network.js'
import {repaint} from './repaint.js'
import {METHODS, karrasSigmas} from './samplers.js'

let newest = 0
function nextTask() {                                       // lets the messages in that have come meanwhile
  const {port1, port2} = new MessageChannel()
  return new Promise(resume => {
    port1.onmessage = () => { port1.close(); resume() }
    port2.postMessage(0)
  })
}

async function* walk(task, network, tell) {
  const {method, steps, label, alpha, interval, seed, churn, fill} = task
  const randn = await keyedNoise('picture', seed, 0)
  const answers = async (x, sigma, labels) => {
    await nextTask()
    if (task.id != newest) throw new DOMException('another task has come', 'AbortError')
    tell.calls++
    return network.answers(x, sigma, labels)
  }
  const D = guide(answers, label, alpha, interval, network.noLabel)
  const lowest = method == 'consistency' && steps > 1 ? karrasSigmas(steps + 1)[steps - 1] : .002
  const sigmas = karrasSigmas(steps, lowest), x = randn(network.pixels).map(value => value * sigmas[0])
  if (fill) yield* repaint(projected(D, fill.y, fill.hidden), x, sigmas, {times: fill.times, randn})
  else yield* METHODS[method](D, x, sigmas, {churn, randn})
}

onmessage = async ({data: task}) => {
  newest = task.id
  const told = {id: task.id, calls: 0}
  try {
    const network = await load(task.model, bytes => postMessage({...told, bytes}))
    if (!task.method) return postMessage({...told, ready: true})
    const begin = performance.now()
    for await (const step of walk(task, network, told))
      postMessage({...told, step, seconds: (performance.now() - begin) / 1000})
  } catch (error) {
    if (error.name != 'AbortError') postMessage({...told, error: `${error.message ?? error}`})
  }
}
