// The page of walks in the plane: it reads the settings, walks, and draws walkers, ways and data.
import {SHAPES, density, mixture, spoilt} from './mixture.js'
import {keyedNoise} from './noise.js'
import {$, SAMPLERS, choices, number, onSubmit, say, wholeNumber} from './page.js'
import {METHODS, karrasSigmas} from './samplers.js'

const BEHIND = {density: 'density of noisy points', slope: 'direction of D(x; σ) − x', nothing: 'nothing'}
const VIEW = 2.2                                                 // the picture reaches from -VIEW to VIEW
let frames = [], newest = 0

function setting() {
  const value = id => +$(id).value, steps = value('steps')
  return {points: SHAPES[$('shape').value], width: value('width'), left: value('left'), count: value('count'), steps,
          method: $('method').value, rho: value('rho'), churn: value('churn') * steps, seed: wholeNumber($('seed'))}
}

const rms = values => Math.sqrt(values.reduce((sum, value) => sum + value ** 2, 0) / values.length)

function fromData(x, points) {                                   // how far each walker is from the nearest point
  return Array.from({length: x.length / 2}, (_, k) =>
    Math.min(...points.map(([a, b]) => Math.hypot(x[2 * k] - a, x[2 * k + 1] - b))))
}

async function walk() {
  const id = ++newest, {points, width, left, count, method, steps, rho, churn, seed} = setting()
  const noise = await keyedNoise('plane', seed), randn = n => Float64Array.from(noise(n))
  const D = spoilt(mixture(points, width), left), sigmas = karrasSigmas(steps, .002, 80, rho), found = []
  const start = randn(2 * count).map(value => value * sigmas[0])
  let calls = 0
  const counted = (x, sigma) => { calls++; return D(x, sigma) }
  for await (const {x, xNext} of METHODS[method](counted, start, sigmas, {churn, randn})) {
    if (id != newest) return
    if (!found.length) found.push({sigma: sigmas[0], x})
    found.push({sigma: sigmas[found.length], x: xNext})
  }
  const off = rms(fromData(found.at(-1).x, points))
  const atEnd = +$('place').value == +$('place').max
  frames = found
  $('place').max = steps
  if (atEnd || +$('place').value > steps) $('place').value = steps
  $('status').textContent = `${calls} calls of the denoiser. The ends lie ${off.toFixed(3)} from the nearest point ` +
                            'of the data (root mean square).'
  show()
}

// The picture: a pen that knows where a place (a, b) of the plane lies on the canvas, at each noise level

function penOn(canvas) {
  const side = canvas.width = canvas.height = Math.round(canvas.clientWidth * devicePixelRatio)
  const pen = canvas.getContext('2d')
  const shrink = sigma => $('keep').checked ? 1 / Math.hypot(1, sigma) : 1
  const at = (a, b, sigma) => [a, -b].map(v => (1 + v * shrink(sigma) / VIEW) * side / 2)
  const from = (u, v, sigma) => [2 * u / side - 1, 1 - 2 * v / side].map(v => v * VIEW / shrink(sigma))
  const dot = ([u, v], radius) => { pen.beginPath(); pen.arc(u, v, radius, 0, 7); pen.fill() }
  const line = places => { pen.beginPath(); places.forEach(place => pen.lineTo(...place)); pen.stroke() }
  const ink = (name, opacity = 1) => {
    pen.fillStyle = pen.strokeStyle = getComputedStyle(canvas).getPropertyValue(name)
    pen.globalAlpha = opacity
  }
  return {pen, side, at, from, dot, line, ink}
}

function showDensity({pen, side, from, ink}, {points, width}, sigma) {
  const n = 60, small = Object.assign(document.createElement('canvas'), {width: n, height: n}), cell = side / n
  const p = density(points, width, Math.max(sigma, .04))
  const spots = Array.from({length: n * n}, (_, i) => [i % n, i / n | 0])
  const heights = spots.map(([i, j]) => p(...from((i + .5) * cell, (j + .5) * cell, sigma)))
  const highest = Math.max(...heights), dab = small.getContext('2d')
  ink('--tool-density')
  dab.fillStyle = pen.fillStyle
  spots.forEach(([i, j], k) => { dab.globalAlpha = .7 * heights[k] / highest; dab.fillRect(i, j, 1, 1) })
  pen.drawImage(small, 0, 0, side, side)
}

function showDirections({side, at, from, dot, line, ink}, {points, width, left}, sigma) {
  const n = 16, cell = side / n, D = spoilt(mixture(points, width), left)
  ink('--tool-density')
  for (let i = 0; i < n * n; i++) {
    const start = [(i % n + .5) * cell, ((i / n | 0) + .5) * cell], x = from(...start, sigma)
    const end = at(...D(x, Math.max(sigma, .04)), sigma), [du, dv] = end.map((v, d) => v - start[d])
    const length = Math.hypot(du, dv), share = Math.min(1, .7 * cell / length)
    dot(start, side / 250)
    line([start, [start[0] + share * du, start[1] + share * dv]])
  }
}

function show() {
  const k = +$('place').value, {sigma, x} = frames[k], chosen = setting(), {points} = chosen
  const paper = penOn($('plane')), {side, at, dot, line, ink} = paper
  if ($('shown').value == 'density') showDensity(paper, chosen, sigma)
  if ($('shown').value == 'slope') showDirections(paper, chosen, sigma)
  ink('--tool-data')
  for (const [a, b] of points) dot(at(a, b, sigma), side / (points.length > 20 ? 150 : 60))
  ink('--tool-walker', .3)
  for (let w = 0; w < x.length; w += 2) line(frames.slice(0, k + 1).map(f => at(f.x[w], f.x[w + 1], f.sigma)))
  ink('--tool-walker')
  for (let w = 0; w < x.length; w += 2) dot(at(x[w], x[w + 1], sigma), side / 160)
  const where = sigma ? `step ${k}, σ = ${number(sigma)}` : 'the end, σ = 0'
  say($('place'), where)
  $('plane').setAttribute('aria-label', `${x.length / 2} walkers among the data (${$('shape').value}) at ${where}. ` +
    `They lie ${number(rms(fromData(x, points)))} from the nearest point (root mean square).`)
}

function changed() {
  $('churn').disabled = $('method').value != 'stochastic_heun'
  for (const id of ['width', 'left', 'count', 'steps', 'rho', 'churn']) say($(id), $(id).value)
  walk()
}

choices($('shape'), Object.fromEntries(Object.keys(SHAPES).map(name => [name, name])))
choices($('method'), SAMPLERS)
choices($('shown'), BEHIND)
$('shape').value = 'ring of eight'
$('method').value = 'heun'
$('walk').oninput = changed
onSubmit($('walk'), changed)
$('place').oninput = show
new ResizeObserver(() => frames.length && show()).observe($('plane'))
new MutationObserver(() => frames.length && show()).observe(document.documentElement, {attributeFilter: ['data-theme']})
document.querySelector('.tool-wait').remove()
changed()
