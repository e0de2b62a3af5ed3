// The samplers of lesson 03. A denoiser is a function D(x, sigma) that returns the clean picture it expects behind x. It
// may take its time, so it is awaited. A picture is an array of numbers. Each sampler yields one step at a time: the
// picture x at level sigma, what the denoiser makes of it, and the picture xNext at the next level.

export function karrasSigmas(n, sigmaMin = .002, sigmaMax = 80, rho = 7) {   // the levels of a walk (eq. 5), then 0
  const first = sigmaMax ** (1 / rho), last = sigmaMin ** (1 / rho)
  const sigmas = Array.from({length: n}, (_, i) => n == 1 ? sigmaMax : (first + i / (n - 1) * (last - first)) ** rho)
  return [...sigmas, 0]
}

const steps = sigmas => sigmas.slice(0, -1).map((sigma, i) => [i, sigma, sigmas[i + 1]])
const slope = (x, denoised, sigma) => x.map((value, k) => (value - denoised[k]) / sigma)
const move = (x, h, d) => x.map((value, k) => value + h * d[k])

export async function* euler(D, x, sigmas) {
  for (const [i, sigma, sigmaNext] of steps(sigmas)) {
    const denoised = await D(x, sigma)
    const xNext = sigmaNext > 0 ? move(x, sigmaNext - sigma, slope(x, denoised, sigma)) : denoised
    yield {i, sigma, x, denoised, xNext}
    x = xNext
  }
}

async function heunStep(D, x, sigma, sigmaNext) {                            // Algorithm 1; the last step is Euler's
  const denoised = await D(x, sigma)
  if (sigmaNext == 0) return [denoised, denoised]
  const h = sigmaNext - sigma, d = slope(x, denoised, sigma)
  const there = move(x, h, d), dThere = slope(there, await D(there, sigmaNext), sigmaNext)
  return [denoised, move(x, h, d.map((value, k) => (value + dThere[k]) / 2))]
}

export async function* heun(D, x, sigmas) {
  for (const [i, sigma, sigmaNext] of steps(sigmas)) {
    const [denoised, xNext] = await heunStep(D, x, sigma, sigmaNext)
    yield {i, sigma, x, denoised, xNext}
    x = xNext
  }
}

export async function* dpmpp2m(D, x, sigmas) {                               // DPM-Solver++(2M) of Lu et al. 2022
  let last = null
  for (const [i, sigma, sigmaNext] of steps(sigmas)) {
    const denoised = await D(x, sigma)
    let middle = denoised
    if (last && sigmaNext > 0) {
      const h = Math.log(sigma / sigmaNext), hLast = Math.log(last.sigma / sigma)
      middle = denoised.map((value, k) => value + h / (2 * hLast) * (value - last.denoised[k]))
    }
    const share = sigmaNext / sigma
    const xNext = x.map((value, k) => share * value + (1 - share) * middle[k])
    last = {i, sigma, x, denoised, xNext}
    yield last
    x = xNext
  }
}

export const raiseNoise = (x, sigma, sigmaHat, randn) => move(x, Math.sqrt(sigmaHat ** 2 - sigma ** 2), randn(x.length))

export async function* stochasticHeun(D, x, sigmas, {churn, randn}) {        // Algorithm 2; churn is S_churn
  const gamma = Math.min(churn / (sigmas.length - 1), Math.SQRT2 - 1)
  for (const [i, sigma, sigmaNext] of steps(sigmas)) {
    const sigmaHat = sigma * (1 + gamma), xHat = gamma > 0 ? raiseNoise(x, sigma, sigmaHat, randn) : x
    const [denoised, xNext] = await heunStep(D, xHat, sigmaHat, sigmaNext)
    yield {i, sigma, x, denoised, xNext}
    x = xNext
  }
}

export async function* consistency(D, x, sigmas, {randn}) {                  // lesson 16a: jump, go back up, jump again
  for (const [i, sigma, sigmaNext] of steps(sigmas)) {
    const denoised = await D(x, sigma)
    const xNext = sigmaNext > 0 ? raiseNoise(denoised, 0, sigmaNext, randn) : denoised
    yield {i, sigma, x, denoised, xNext}
    x = xNext
  }
}

export const METHODS = {euler, heun, dpmpp_2m: dpmpp2m, stochastic_heun: stochasticHeun, consistency}
