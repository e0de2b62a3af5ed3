"""Few steps: how far each sampler of lessons 03 and 16 ends from the converged walk, and how good its pictures are.

usage: python .ci/bench/fewsteps.py [--root DATA] [--out nbs/16_fewsteps.json] [--only euler,heun]

The shipped model of Fashion-MNIST draws three disjoint sets of 256 pictures with all classes alike, from the same start
noise for every method. Two measurements for each method and number of calls:

- off: the root mean square over pixels between where a walk ends and where a walk of 250 steps from the same noise ends
  (Adams-Bashforth of order 4), for the first 32 pictures of each set, in float32. Not for methods with fresh noise.
- Fréchet distances from the training set, in the features of the classifier that `edm_evaluate` uses, and in 64
  principal components of the pixels; pictures drawn with bf16 multiplications. The floor is the same for test pictures.

Methods that cannot spend exactly so many calls spend the next number below. The adaptive method gets the tolerance that
comes nearest on 20 pictures. Rows that the output has already are not measured again."""
from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import edm_nbdev as edm
from edm_nbdev.caches import cache_folder
from edm_nbdev.core import from_pixels
from edm_nbdev.data import load_data
from edm_nbdev.guidance import guide
from edm_nbdev.judges import kept_classifier
from edm_nbdev.metrics import Moments, frechet_distance, frechet_error
from edm_nbdev.samplers import karras_sigmas, keyed_noise, sample

SETS, EACH, NEAR, BATCH = 3, 256, 32, 64
CALLS = (4, 6, 8, 10, 18, 35)
NOISY = {'S_churn': .15, 'S_min': .05, 'S_max': 50.}  # S_churn for each step, as in lesson 03
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    'euler': ('euler', {}), 'heun': ('heun', {}), 'dpmpp_2m': ('dpmpp_2m', {}), 'dpmpp_3m': ('dpmpp_3m', {}),
    **{f'adams_bashforth {k}': ('adams_bashforth', {'order': k}) for k in (2, 3, 4)},
    **{f'ipndm {k}': ('ipndm', {'order': k}) for k in (2, 3, 4)},
    'adaptive': ('adaptive', {}),
    'stochastic_heun': ('stochastic_heun', NOISY), 'euler_ancestral': ('euler_ancestral', {}),
    'dpmpp_2m_sde': ('dpmpp_2m_sde', {})}
SEARCHED = ('euler', 'dpmpp_2m', 'ipndm 4')


class Asked:
    "A denoiser that counts for how many pictures it was asked."
    def __init__(self, denoiser: Callable[[Tensor, Tensor], Tensor]) -> None: self.denoiser, self.n = denoiser, 0

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        self.n += len(x)
        return self.denoiser(x, sigma)


class Scores:
    "Fréchet distances from the training set, in two spaces."
    def __init__(self, root: str | None) -> None:
        train, pixels = load_data('fashion_mnist', root=root), Moments()
        steps = kept_classifier(train, cache_folder(root))
        while True:
            try: next(steps)
            except StopIteration as end:
                self.judge = end.value
                break
        for some in train.images.split(5000): pixels.add(from_pixels(some).flatten(1))
        self.mean, self.basis = pixels.mean, torch.linalg.eigh(pixels.cov)[1][:, -64:]
        self.real = {name: Moments() for name in ('classifier', 'pixels')}
        for some in train.images.split(5000):
            for name, rows in self.features(from_pixels(some)).items(): self.real[name].add(rows)

    @torch.no_grad()
    def features(self, x: Tensor) -> dict[str, Tensor]:
        x = x.clamp(-1, 1)
        return {'classifier': torch.cat([self.judge.features(some) for some in x.split(500)]).double(),
                'pixels': (x.flatten(1).double() - self.mean) @ self.basis}

    def __call__(self, sets: Tensor) -> dict[str, Any]:
        "The distance of all pictures (SETS,EACH,1,32,32), its standard error, and the distance of each set alone."
        found: dict[str, Any] = {}
        apart = [self.features(some) for some in sets]
        for name, real in self.real.items():
            rows = torch.cat([some[name] for some in apart])
            found[name] = round(frechet_distance(rows, real), 4)
            found[f'{name}, error'] = round(frechet_error(rows, real), 4)
            found[f'{name}, sets'] = [round(frechet_distance(some[name], real), 4) for some in apart]
        return found


class Bench:
    "The model, the start noise of all pictures, and where their walks converge."
    def __init__(self) -> None:
        self.model: Any = edm.load_model('fashion_mnist', 'cpu').requires_grad_(False)
        n = SETS * EACH
        self.label = torch.arange(n) % 10
        self.start = 80 * keyed_noise(0, 0, n)(torch.empty(n, 1, 32, 32))
        self.near = torch.cat([torch.arange(NEAR) + k * EACH for k in range(SETS)])

    def walk(self, method: str, options: dict[str, Any], sigmas: Tensor, which: Tensor) -> tuple[Tensor, float]:
        "Where the walks of these pictures end, and how many calls each took in the mean."
        ends, asked, kw = torch.empty(len(which), 1, 32, 32), 0, dict(options)
        if method == 'stochastic_heun': kw['S_churn'] = options['S_churn'] * (len(sigmas) - 1)
        parts = [part for part in torch.arange(len(which)).split(BATCH)]
        if method == 'adaptive':  # it asks for those alone that have not arrived, so all in a batch have one class
            parts = [(self.label[which] == c).nonzero().flatten() for c in range(10)]
        for part in parts:
            chosen = which[part]
            if method in ('stochastic_heun', 'euler_ancestral', 'dpmpp_2m_sde'):
                kw['randn_like'] = keyed_noise(1, int(chosen[0]), len(chosen))
            label: Any = int(self.label[chosen[0]]) if method == 'adaptive' else self.label[chosen]
            denoiser = Asked(guide(self.model, label))
            ends[part] = sample(denoiser, self.start[chosen], sigmas, method, **kw)
            asked += denoiser.n
        return ends, asked / len(which)

    def steps(self, method: str, calls: int) -> int:
        return (calls + 1) // 2 if method in ('heun', 'stochastic_heun') else calls

    def tolerance(self, calls: int) -> float:
        "That of the adaptive method which spends about so many calls, on 20 pictures."
        low, high = math.log(1e-5), math.log(10.)
        for _ in range(7):
            middle = (low + high) / 2
            spent = self.walk('adaptive', {'tol': math.exp(middle)}, karras_sigmas(2), torch.arange(20))[1]
            low, high = (middle, high) if spent > calls else (low, middle)
        return float(f'{math.exp(high):.3g}')


def measure(bench: Bench, score: Scores, method: str, options: dict[str, Any], sigmas: Tensor,
            goal: Tensor) -> dict[str, Any]:
    "A row of the table."
    row: dict[str, Any] = {}
    if method not in ('stochastic_heun', 'euler_ancestral', 'dpmpp_2m_sde'):
        ends, row['calls'] = bench.walk(method, options, sigmas, bench.near)
        off = (ends - goal).square().mean((1, 2, 3))
        row['off'] = round(off.mean().sqrt().item(), 5)
        row['off, sets'] = [round(some.mean().sqrt().item(), 5) for some in off.split(NEAR)]
    with torch.autocast('cpu', torch.bfloat16):
        ends, row['calls'] = bench.walk(method, options, sigmas, torch.arange(SETS * EACH))
    row['calls'] = round(row['calls'], 2)
    return row | score(ends.unflatten(0, (SETS, EACH)))


def searched(bench: Bench) -> dict[str, list[float]]:
    "Levels found on the ideal denoiser of the digits, and on walks of the model itself."
    from edm_nbdev.fewsteps import search_steps
    from edm_nbdev.ode import IdealDenoiser
    digits = load_data('digits')
    ideal, gen = IdealDenoiser(digits.batch(torch.arange(len(digits)))[0]), torch.Generator().manual_seed(0)
    small = 80 * torch.randn(64, 1, 8, 8, generator=gen, dtype=torch.float64)
    own = torch.arange(1000, 1032)
    noise = 80 * keyed_noise(0, 1000, 32)(torch.empty(32, 1, 32, 32))
    found: dict[str, list[float]] = {}
    for n in (6, 8):
        found[f'digits, {n}'] = search_steps(ideal, small, n).tolist()
        found[f'own, {n}'] = search_steps(guide(bench.model, own % 10), noise, n).tolist()
    return {name: [float(f'{s:.6g}') for s in levels] for name, levels in found.items()}


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument('--root')
    args.add_argument('--out', default='nbs/16_fewsteps.json')
    args.add_argument('--only', help='some methods, with commas between them')
    given = args.parse_args()
    out = Path(given.out)
    stored: dict[str, Any] = json.loads(out.read_text(encoding='utf-8')) if out.is_file() else {}
    stored['about'] = {'package': edm.__version__, 'model': 'fashion_mnist', 'sets': SETS, 'pictures in a set': EACH,
                       'measured against converged walks': SETS * NEAR, 'seed': 0, 'cfg_scale': 1,
                       'stochastic_heun': NOISY | {'S_churn': '0.15 for each step'}}
    rows = stored.setdefault('methods', {})

    def keep() -> None: out.write_text(json.dumps(stored, indent=1, ensure_ascii=False) + '\n', encoding='utf-8')

    def row(key: str, *what: Any) -> None:
        if key in rows: return
        rows[key] = measure(bench, score, *what, goal)
        print(key, rows[key], flush=True)
        keep()

    bench, score = Bench(), Scores(given.root)
    long, fourth = karras_sigmas(250), {'order': 4}
    goal = bench.walk('adams_bashforth', fourth, long, bench.near)[0]
    if 'real' not in stored:
        other = bench.walk('adams_bashforth', fourth, karras_sigmas(125), bench.near)[0]
        stored['off of 125 steps'] = round((goal - other).square().mean().sqrt().item(), 6)
        test = load_data('fashion_mnist', root=given.root, split='test')
        stored['real'] = score(test.batch(torch.arange(SETS * EACH))[0].unflatten(0, (SETS, EACH)))
        keep()
    import edm_nbdev.fewsteps  # registers its samplers  # noqa: F401
    names = given.only.split(',') if given.only else [*METHODS]
    for calls in CALLS:
        for name in names:
            method, options = METHODS[name]
            if calls == 35 and name not in ('euler', 'heun', 'dpmpp_2m', 'ipndm 4', 'stochastic_heun',
                                            'euler_ancestral', 'dpmpp_2m_sde'): continue
            if f'{name}, {calls}' in rows: continue
            if name == 'adaptive': options = stored.setdefault('tolerances', {}).setdefault(
                str(calls), {'tol': bench.tolerance(calls)})
            row(f'{name}, {calls}', method, options, karras_sigmas(bench.steps(method, calls)))
    if given.only: return
    if 'searched' not in stored: stored['searched'] = searched(bench)
    for key, levels in stored['searched'].items():
        for name in SEARCHED: row(f'{name}, {key} searched', *METHODS[name], torch.tensor(levels, dtype=torch.float64))


if __name__ == '__main__': main()
