// Denoisers made of denoisers (lessons 08 and 15). The network is a function answers(x, sigma, labels): what it makes
// of x with each of the labels, in one batch.

export function guide(answers, label, alpha, [low, high], noLabel) {         // classifier-free guidance, in an interval
  return async (x, sigma) => {
    const inside = low < sigma && sigma <= high
    if (label == noLabel || alpha == 1 || !inside) return (await answers(x, sigma, [label]))[0]
    if (alpha == 0) return (await answers(x, sigma, [noLabel]))[0]
    const [better, worse] = await answers(x, sigma, [label, noLabel])
    return better.map((value, k) => value + (alpha - 1) * (value - worse[k]))
  }
}

export function projected(D, y, hidden) {                                    // D, with the pixels of y that are known
  return async (x, sigma) => (await D(x, sigma)).map((value, k) => hidden[k] ? value : y[k])
}
