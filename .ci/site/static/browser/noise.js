// The noise of the package: `keyedNoise('picture', 5, 0)` draws the numbers that picture 0 of seed 5 gets in Python, so
// that both draw the same picture. An address is hashed (SHA-256), the hash seeds NumPy's generator (PCG64 of O'Neill
// 2014, seeded by SeedSequence), and its bits become normal numbers by the ziggurat of Marsaglia and Tsang (2000).

const address = parts => `[${parts.map(part => typeof part == 'string' ? `'${part}'` : part).join(', ')}]`

async function sha256(text) {                                       // eight words of 32 bits
  return new Uint32Array(await crypto.subtle.digest('SHA-256', new TextEncoder().encode(text)))
}

function seedWords(entropy) {                                       // SeedSequence(entropy).generate_state(8)
  const hasher = (factor, step) => value => {
    value ^= factor
    factor = Math.imul(factor, step)
    value = Math.imul(value, factor)
    return value ^ value >>> 16
  }
  const mix = (x, y) => {
    const mixed = Math.imul(0xca01f9dd, x) - Math.imul(0x4973f715, y) | 0
    return mixed ^ mixed >>> 16
  }
  const taken = hasher(0x43b0d7e5, 0x931e8875), given = hasher(0x8b51f9dd, 0x58f38ded)
  const pool = [...entropy.slice(0, 4)].map(taken)
  for (let from = 0; from < 4; from++)
    for (let to = 0; to < 4; to++) if (from != to) pool[to] = mix(pool[to], taken(pool[from]))
  for (const word of entropy.slice(4))
    for (let to = 0; to < 4; to++) pool[to] = mix(pool[to], taken(word))
  return [...pool, ...pool].map(word => given(word) >>> 0)
}

function pcg64(words) {                                             // a source of whole numbers of 32 bits
  const big = (...parts) => parts.reduceRight((sum, word) => sum << 32n | BigInt(word), 0n)
  const cut = value => BigInt.asUintN(128, value)
  const [high, low, ahead, behind] = [0, 2, 4, 6].map(i => big(words[i], words[i + 1]))
  const step = cut((ahead << 64n | behind) << 1n | 1n)
  const next = state => cut(state * 0x2360ed051fc65da44385df649fccf645n + step)
  let state = next(cut(step + (high << 64n | low))), spare = null
  return () => {
    if (spare !== null) { const word = spare; spare = null; return word }
    state = next(state)
    const folded = BigInt.asUintN(64, state >> 64n ^ state), turn = state >> 122n
    const bits = BigInt.asUintN(64, folded >> turn | folded << (64n - turn))
    spare = Number(bits >> 32n)
    return Number(bits & 0xffffffffn)
  }
}

// 256 layers of equal area under exp(-x^2/2): the right end of each, and the height there, from the table's end down
const LAST = 3.6541528853610088, AREA = 0.004928673233974658, f32 = Math.fround
const bell = x => Math.exp(-x * x / 2)
const ends = new Float64Array(256)
ends[255] = LAST
for (let i = 254; i > 0; i--) ends[i] = Math.sqrt(-2 * Math.log(AREA / ends[i + 1] + bell(ends[i + 1])))
const widths = Float32Array.from(ends, (x, i) => (i ? x : AREA / bell(LAST)) / 2**23)
const inside = Uint32Array.from(ends, (x, i) => i ? ends[i - 1] / x * 2**23 : LAST * bell(LAST) / AREA * 2**23)
const heights = Float32Array.from(ends, bell)

function normal(word) {                                             // one number, as NumPy makes it in float32
  const uniform = () => (word() >>> 8) / 2**24
  for (;;) {
    const bits = word(), i = bits & 255, place = bits >>> 9, sign = bits & 256 ? -1 : 1
    const x = f32(place * widths[i])
    if (place < inside[i]) return sign * x
    if (i == 0) {                                                   // the tail, beyond the last layer
      for (;;) {
        const past = f32(-Math.log1p(-uniform()) / LAST), room = f32(-Math.log1p(-uniform()))
        if (room + room > past * past) return (place & 256 ? -1 : 1) * f32(LAST + past)
      }
    }
    if (f32(f32(f32(heights[i - 1] - heights[i]) * uniform()) + heights[i]) < bell(x)) return sign * x
  }
}

export async function keyedNoise(...parts) {  // a word for the purpose, then whole numbers: a function n -> n numbers
  const word = pcg64(seedWords(await sha256(address(parts))))
  return n => Float32Array.from({length: n}, () => normal(word))
}
