// The page that draws: it reads the settings, sends them to the worker, and shows what the worker tells.
import brush from './brush.js'
import {MODELS} from './models/models.js'
import {$, SAMPLERS, choices, number, onSubmit, say, tell, wholeNumber} from './page.js'

const JUMPS = {consistency: 'jumps, with fresh noise in between'}
const LEVELS = [0, .05, .1, .2, .3, .5, 1, 2, 3, 5, 10, 20, Infinity]         // where guidance may begin and end
const TRAINED = 'fashion_mnist', SIDE = 32, {classes, sigma_data} = MODELS[TRAINED]
const worker = new Worker(new URL('worker.js', import.meta.url), {type: 'module'})
let newest = 0, listener = null, film = [], picture = null, begun = false

// Every picture is an array of numbers from -1 to 1.
const toPixels = y => Array.from(y, value => Math.min(255, Math.max(0, Math.round((value + 1) * 127.5))))

function paint(canvas, y, alt) {
  const rgba = new ImageData(SIDE, SIDE)
  toPixels(y).forEach((value, i) => rgba.data.set([value, value, value, 255], 4 * i))
  canvas.getContext('2d').putImageData(rgba, 0, 0)
  canvas.setAttribute('aria-label', alt)
}

function send(task, told) {                                                   // a new task ends the old one
  listener = told
  worker.postMessage({...task, id: ++newest})
}

worker.onmessage = ({data}) => {
  if (data.bytes) return tell($('status'), `Loading: ${Math.floor(data.bytes / 1e6)} MB.`)
  if (data.id == newest) listener(data)
}

function report(data, steps, bar, status) {                                   // what both kinds of walk tell alike
  const done = data.step ? data.step.i + 1 : 0
  bar.value = done / steps
  if (data.error) status.textContent = `This did not work: ${data.error}`
  else if (done == steps) status.textContent = `Done: ${data.calls} calls in ${data.seconds.toFixed(2)} s.`
  return done
}

// The walk

function setting() {
  const distilled = MODELS[$('model').value].distilled, steps = +$('steps').value
  return {model: $('model').value, label: +$('label').value, method: $('method').value, steps,
          alpha: distilled || $('label').value == classes.length ? 1 : +$('alpha').value,
          interval: [LEVELS[$('low').value], LEVELS[$('high').value]],
          churn: +$('churn').value, seed: wholeNumber($('seed'))}
}

function inPython({model, label, alpha, interval: [low, high], method, steps, churn, seed}) {
  const guided = alpha != 1, some = low > 0 || high < Infinity
  return [`model = edm.load_model('${model}')`,
          `edm.generate(model, 1, ${label < classes.length ? `label='${classes[label]}', ` : ''}` +
          (guided ? `cfg_scale=${alpha}, ` : '') +
          (guided && some ? `cfg_interval=(${low}, ${high == Infinity ? "float('inf')" : high}), ` : '') +
          `method='${method}', steps=${steps}, seed=${seed}` +
          (method == 'stochastic_heun' ? `, S_churn=${churn})` : ')')].join('\n')
}

function fitControls() {                                                     // what a model or a sampler has no use for
  const distilled = MODELS[$('model').value].distilled, names = distilled ? JUMPS : SAMPLERS
  if (!($('method').value in names)) {
    choices($('method'), names)
    if (!distilled) $('method').value = 'dpmpp_2m'
    $('steps').max = distilled ? 4 : 40
    $('steps').value = distilled ? 2 : 18
  }
  const unguided = distilled || $('label').value == classes.length
  for (const id of ['alpha', 'low', 'high']) $(id).disabled = unguided || id != 'alpha' && $('alpha').value == 1
  $('churn').disabled = $('method').value != 'stochastic_heun'
  if (+$('high').value <= +$('low').value) $('high').value = +$('low').value + 1
  $('low').max = LEVELS.length - 2
  for (const id of ['alpha', 'steps', 'churn', 'fill-steps', 'times']) say($(id), $(id).value)
  for (const id of ['low', 'high']) say($(id), LEVELS[$(id).value] == Infinity ? 'any' : `${LEVELS[$(id).value]}`)
  $('python').textContent = 'import edm_nbdev as edm\n\n' + inPython(setting())
}

function showFrame() {
  const k = +$('place').value, {sigma, x, denoised} = film[k], last = k == film.length - 1 && sigma == 0
  const where = last ? 'the end' : `step ${k + 1}, σ = ${number(sigma)}`
  const scale = sigma_data / Math.hypot(sigma, sigma_data)                    // of the data, at every level
  paint($('noisy'), x.map(value => value * scale), `The picture with its noise: ${where}`)
  paint($('guess'), denoised, last ? 'The finished picture' : `The clean picture that the denoiser expects: ${where}`)
  say($('place'), where)
}

function drawn(y) {                                                          // the walk has ended: paint on its picture
  picture = y.map(value => Math.min(1, Math.max(-1, value)))
  canvasModel.set('picture', $('guess').toDataURL())
  $('filled').getContext('2d').clearRect(0, 0, SIDE, SIDE)
  $('filled').setAttribute('aria-label', 'nothing yet')
  $('fill-status').textContent = 'Paint over what is to be filled in.'
}

function draw() {
  const task = setting()
  begun = true
  film = []
  picture = null
  $('place').disabled = true
  $('status').textContent = 'Drawing.'
  $('fill-status').textContent = 'Waiting for the picture above.'
  $('fill-progress').value = 0
  send(task, data => {
    const done = report(data, task.steps, $('progress'), $('status'))
    if (!data.step) return
    film.push(data.step)
    if (done == task.steps) film.push({sigma: 0, x: data.step.xNext, denoised: data.step.xNext})
    Object.assign($('place'), {max: film.length - 1, value: film.length - 1, disabled: done < task.steps})
    showFrame()
    if (done == task.steps) drawn(data.step.xNext)
  })
}

// The brush is the one of the package (edm_nbdev.brush), which expects a model as anywidget has it.

const canvasModel = {
  values: {shape: [SIDE, SIDE], value: '0'.repeat(SIDE * SIDE), picture: ''}, watchers: {},
  get(name) { return this.values[name] },
  set(name, value) { this.values[name] = value; this.watchers[`change:${name}`]?.() },
  on(event, watcher) { this.watchers[event] = watcher },
  off(event) { delete this.watchers[event] },
  save_changes() { fill() },
}

function fill() {
  const mask = [...canvasModel.get('value')].map(Number), count = mask.filter(Boolean).length, status = $('fill-status')
  if (!picture) return status.textContent = 'Draw a picture first, and wait for its end.'
  if (!count) return status.textContent = 'The mask hides nothing: there is nothing to fill in.'
  if (count == mask.length) return status.textContent = 'The mask hides the whole picture: nothing is left to go by.'
  const steps = +$('fill-steps').value, times = +$('times').value
  status.textContent = 'Filling.'
  send({...setting(), model: TRAINED, method: 'euler', steps, seed: wholeNumber($('fill-seed')),
        fill: {y: picture, hidden: mask, times}}, data => {
    const done = report(data, steps, $('fill-progress'), status)
    if (data.step) paint($('filled'), done == steps ? data.step.xNext : data.step.denoised,
                         `The picture with its hidden part filled in, ${done} of ${steps} steps`)
  })
}

const names = Object.fromEntries(Object.entries(MODELS).map(([name, {distilled}]) => [
  name, distilled ? 'distilled: jumps' : 'trained: walks']))
choices($('model'), names)
choices($('label'), {...classes, [classes.length]: 'no class'})
$('label').value = 9
brush.render({model: canvasModel, el: $('brush')})
fitControls()
$('walk').oninput = () => { fitControls(); if (begun) draw() }
$('fill').oninput = () => { fitControls(); fill() }
onSubmit($('walk'), draw)
onSubmit($('fill'), fill)
$('another').onclick = () => { $('seed').value = wholeNumber($('seed')) + 1; fitControls(); draw() }
$('place').oninput = showFrame
document.querySelector('.tool-wait').remove()
send({model: TRAINED}, ({error}) => tell($('status'), error ? `This did not work: ${error}` : 'Ready: press Draw.'))
