// The exact denoiser of lesson 02: the data are points in the plane, each with a bell of deviation `width` around it.
// x holds any number of places, as [x, y, x, y, ...].

function shares(points, x, k, variance) {                                    // which point is behind place k: softmax
  const logits = points.map(([a, b]) => -((x[k] - a) ** 2 + (x[k + 1] - b) ** 2) / (2 * variance))
  const most = Math.max(...logits), weights = logits.map(value => Math.exp(value - most))
  return {weights, total: weights.reduce((sum, w) => sum + w), most}
}

export function mixture(points, width) {                                     // D(x; sigma)
  return (x, sigma) => {
    const variance = width ** 2 + sigma ** 2, denoised = x.slice()
    for (let k = 0; k < x.length; k += 2) {
      const {weights, total} = shares(points, x, k, variance)
      for (const d of [0, 1]) {
        const mean = weights.reduce((sum, w, i) => sum + w * points[i][d], 0) / total
        denoised[k + d] = mean + width ** 2 / variance * (x[k + d] - mean)
      }
    }
    return denoised
  }
}

export function density(points, width, sigma) {                              // p(x; sigma) at one place
  const variance = width ** 2 + sigma ** 2
  return (a, b) => {
    const {total, most} = shares(points, [a, b], 0, variance)
    return total * Math.exp(most) / (2 * Math.PI * variance * points.length)
  }
}

export function spoilt(D, left) {                                           // lesson 03: it leaves a share of the noise
  return (x, sigma) => D(x, sigma).map((value, k) => (1 - left) * value + left * x[k])
}

const spread = (n, at) => Array.from({length: n}, (_, i) => at(i / n))
const on = (radius, turns) => [radius * Math.cos(2 * Math.PI * turns), radius * Math.sin(2 * Math.PI * turns)]

export const SHAPES = {
  'two points': [[-1, 0], [1, 0]],
  'three points': [[0, 1], [-.9, -.6], [.9, -.6]],
  'ring of eight': spread(8, t => on(1.2, t)),
  'spiral': spread(120, t => on(1.5 * (.25 + .75 * t), 2 * (.25 + .75 * t))),
}
