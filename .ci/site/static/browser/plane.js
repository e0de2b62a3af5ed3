// The page of walks in the plane: it reads the settings, walks, and draws walkers, ways and data.
import {SHAPES, density, mixture, spoilt} from './mixture.js'
import {keyedNoise} from './noise.js'
import {$, choices, number, onInput, say} from './page.js'
import {METHODS, karrasSigmas} from './samplers.js'

const SAMPLERS = {euler: 'Euler', heun: 'Heun', dpmpp_2m: 'DPM++(2M)', stochastic_heun: 'stochastic Heun'}
const BEHIND = {density: 'density of noisy points', slope: 'direction of D(x; σ) − x', nothing: 'nothing'}
const VIEW = 2.2                                                 // the picture reaches from -VIEW to VIEW
let frames = [], newest = 0

function setting() {
  const value = id => +$(id).value, steps = value('steps')
  return {points: SHAPES[$('shape').value], width: value('width'), left: value('left'), count: value('count'),
          method: $('method').value, steps, rho: value('rho'), churn: value('churn') * steps, seed: value('seed')}
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
  $('status').textContent = `${calls} calls of the denoiser. The ends lie ${off.toFixed(3)} from the nearest point of ` +
                            'the data (root mean square).'
  show()
}

function show() {
  const k = +$('place').value, {sigma, x} = frames[k], {points, width, left} = setting()
  const canvas = $('plane'), side = canvas.clientWidth * devicePixelRatio, pen = canvas.getContext('2d')
  const colour = name => getComputedStyle(document.documentElement).getPropertyValue(name)
  canvas.width = canvas.height = side
  const scaleAt = level => $('keep').checked ? 1 / Math.hypot(1, level) : 1
  const to = (a, b, level) => [(1 + a * scaleAt(level) / VIEW) * side / 2, (1 - b * scaleAt(level) / VIEW) * side / 2]
  const dot = (a, b, level, radius) => { pen.beginPath(); pen.arc(...to(a, b, level), radius, 0, 7); pen.fill() }
  const line = places => { pen.beginPath(); places.forEach(place => pen.lineTo(...place)); pen.stroke() }

  const grid = 44, cell = side / grid, scale = scaleAt(sigma)
  const middles = Array.from({length: grid * grid}, (_, i) => [i % grid, Math.floor(i / grid)]).map(([i, j]) => [
    i, j, (2 * (i + .5) / grid - 1) * VIEW / scale, (1 - 2 * (j + .5) / grid) * VIEW / scale])
  if ($('shown').value == 'density') {
    const p = density(points, width, Math.max(sigma, .02)), heights = middles.map(([, , a, b]) => p(a, b))
    const highest = Math.max(...heights)
    pen.fillStyle = colour('--tool-density')
    middles.forEach(([i, j], n) => { pen.globalAlpha = .7 * heights[n] / highest
                                     pen.fillRect(i * cell, j * cell, cell + 1, cell + 1) })
    pen.globalAlpha = 1
  }
  if ($('shown').value == 'slope') {
    pen.strokeStyle = colour('--tool-density')
    const D = spoilt(mixture(points, width), left)
    for (const [i, j, a, b] of middles.filter(([i, j]) => i % 3 == 1 && j % 3 == 1)) {
      const [da, db] = D([a, b], Math.max(sigma, .02)).map((value, d) => value - [a, b][d]), length = Math.hypot(da, db)
      const [u, v] = to(a, b, sigma)
      line([[u, v], [u + 2 * cell * da / length, v - 2 * cell * db / length]])
      pen.strokeRect(u - 1, v - 1, 2, 2)
    }
  }
  pen.strokeStyle = colour('--tool-way')
  pen.globalAlpha = .5
  for (let w = 0; w < x.length; w += 2) line(frames.slice(0, k + 1).map(f => to(f.x[w], f.x[w + 1], f.sigma)))
  pen.globalAlpha = 1
  pen.fillStyle = colour('--tool-data')
  for (const [a, b] of points) dot(a, b, sigma, side / (points.length > 20 ? 160 : 80))
  pen.fillStyle = colour('--tool-walker')
  for (let w = 0; w < x.length; w += 2) dot(x[w], x[w + 1], sigma, side / 160)

  const where = sigma ? `step ${k}, σ = ${number(sigma)}` : `the end, σ = 0`
  say($('place'), where)
  canvas.setAttribute('aria-label', `${x.length / 2} walkers among the data (${$('shape').value}) at ${where}. They lie ` +
                      `${number(rms(fromData(x, points)))} from the nearest point (root mean square).`)
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
onInput($('walk'), changed)
$('place').oninput = show
new ResizeObserver(() => frames.length && show()).observe($('plane'))
new MutationObserver(() => frames.length && show()).observe(document.documentElement, {attributeFilter: ['data-theme']})
document.querySelector('.tool-wait').remove()
changed()
