// Filling in what is hidden (lesson 15): each step is taken several times, with fresh noise in between, so that the
// unknown part can fit the known one (RePaint, Lugmayr et al. 2022). D is made by `projected`.
import {euler, raiseNoise} from './samplers.js'

export async function* repaint(D, x, sigmas, {times, randn}) {
  for (let i = 0; i < sigmas.length - 1; i++) {
    const levels = sigmas.slice(i, i + 2), repeats = levels[1] > 0 ? times : 1
    let step
    for (let k = 0; k < repeats; k++) {
      if (k) x = raiseNoise(step.xNext, levels[1], levels[0], randn)
      step = (await euler(D, x, levels).next()).value
    }
    yield {...step, i}
    x = step.xNext
  }
}
