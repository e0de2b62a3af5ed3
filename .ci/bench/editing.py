"""Restored test pictures of Fashion-MNIST: each method of lesson 15, beside azula's implementation of the same method.

usage: python .ci/bench/editing.py [--pictures 256] [--out nbs/15_editing.json]

Half of each picture is hidden, or it is shrunk to 8x8, with noise of 0.02. The shipped model restores it with its label
in 35 calls (36 for RePaint); all methods get the same noise levels and the same start noise. Ours walk by Heun; azula's
moment matching is a denoiser and walks by our Heun, its other methods are samplers and take 35 steps of their own. Its
DPS divides by the length of what a whole batch lacks, so its zeta is multiplied by the root of the batch's size. Both
DPS's have a strength to tune, and three are tried. Scores: PSNR in decibels, and the Fréchet distance from the training
set in 64 principal components of its pixels. Needs azula 0.11.1 (pip install azula==0.11.1) and the data set."""
from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import azula.denoise
import azula.guidance.dps
import azula.guidance.mmps
import azula.guidance.pgdm
import azula.guidance.repaint
import azula.linalg.covariance
import azula.noise
import torch
from torch import Tensor

import edm_nbdev as edm
from edm_nbdev.core import from_pixels
from edm_nbdev.data import load_data
from edm_nbdev.editing import Operator, downscaling, inpainting, measured, repaint
from edm_nbdev.guidance import guide
from edm_nbdev.metrics import Moments, frechet_distance
from edm_nbdev.samplers import karras_sigmas, keyed_noise, sample

NOISE, LOW, HIGH = .02, .002**(1 / 7), 80**(1 / 7)
METHODS: dict[str, str] = {'projection': 'projection', 'RePaint': 'projection', 'DPS': 'dps', 'ΠGDM': 'pigdm',
                           'moment matching': 'moments'}


class OurLevels(azula.noise.VESchedule):
    "Our noise levels as a schedule: t=1 is 80, t=0 is 0.002."
    def sigma(self, t: Tensor) -> Tensor: return (LOW + t * (HIGH - LOW))**7


class Wrapped(azula.denoise.Denoiser):
    "A denoiser of ours as one of azula's."
    def __init__(self, denoiser: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.ask, self.schedule = denoiser, OurLevels()

    def forward(self, x_t: Tensor, t: Tensor, **kwargs: Any) -> Any:
        return azula.denoise.DiracPosterior(self.ask(x_t, self.schedule.sigma(t)))


def ours(name: str, denoiser: Any, operator: Operator, y: Tensor, start: Tensor, first: int, number: float) -> Tensor:
    "Restore pictures by a method of ours; `number` is the strength of DPS, or the sigma_data of ΠGDM."
    options = {{'DPS': 'strength', 'ΠGDM': 'sigma_data'}[name]: number} if name in ('DPS', 'ΠGDM') else {}
    knowing = measured(denoiser, operator, y, NOISE, METHODS[name], **options)
    if name != 'RePaint': return sample(knowing, start, karras_sigmas(18))
    return [*repaint(knowing, start, karras_sigmas(8), 5, keyed_noise(1, first, len(y)))][-1].x_next


def theirs(name: str, denoiser: Any, operator: Operator, y: Tensor, start: Tensor, mask: Tensor, zeta: float) -> Tensor:
    "Restore pictures by azula's method of this name."
    wrapped, kw = Wrapped(denoiser), {'steps': 35, 'silent': True}
    if name == 'moment matching':
        noise = azula.linalg.covariance.IsotropicCovariance(NOISE**2)
        knowing = azula.guidance.mmps.MMPSDenoiser(wrapped, y, operator, noise, iterations=2)
        def answer(x: Tensor, sigma: Tensor) -> Tensor:
            return knowing(x, ((sigma**(1 / 7) - LOW) / (HIGH - LOW)).float()).mean
        return sample(answer, start, karras_sigmas(18))
    if name == 'DPS': return azula.guidance.dps.DPSSampler(wrapped, y, operator, zeta * math.sqrt(len(y)), **kw)(start)
    if name == 'RePaint':
        return azula.guidance.repaint.RePaintSampler(wrapped, y, mask, iterations=5, **kw | {'steps': 7})(start)
    scale = 1 if y.shape == start.shape else start[0].numel() / y[0].numel()  # A A^T is I, or I / pixels of a block
    return azula.guidance.pgdm.PGDMSampler(wrapped, y, operator, lambda v: scale * operator.back(v, start), **kw)(start)


class Scores:
    "PSNR against the true pictures, Fréchet distance from the training set."
    def __init__(self, train: Any, true: Tensor) -> None:
        pixels, self.true, self.target = Moments(), true, Moments()
        for some in train.images.split(5000): pixels.add(from_pixels(some).flatten(1))
        self.mean, self.basis = pixels.mean, torch.linalg.eigh(pixels.cov)[1][:, -64:]
        for some in train.images.split(5000): self.target.add(self.components(from_pixels(some)))

    def components(self, x: Tensor) -> Tensor: return (x.clamp(-1, 1).flatten(1).double() - self.mean) @ self.basis

    def __call__(self, restored: Tensor) -> dict[str, float]:
        squares = (restored.clamp(-1, 1) - self.true).square().flatten(1).mean(1)
        psnr = 10 * (4 / squares.clamp(min=1e-10)).log10()
        return {'PSNR': round(psnr.mean().item(), 2), 'error': round((psnr.std() / math.sqrt(len(psnr))).item(), 2),
                'Fréchet': round(float(frechet_distance(self.components(restored), self.target)), 2)}


def rows(n: int, stored: dict[str, Any]) -> Iterator[tuple[str, dict[str, float]]]:
    "A score for each task and method, as they come."
    model: Any = edm.load_model('fashion_mnist', 'cpu').requires_grad_(False)
    true, label = load_data('fashion_mnist', split='test').batch(torch.arange(n))
    assert label is not None
    score, start = Scores(load_data('fashion_mnist'), true), 80 * keyed_noise(0, 0, n)(true)
    noise = NOISE * keyed_noise(2, 0, n)(true)
    stored['real'] = score(true)
    mask = torch.arange(32)[:, None].expand(32, 32) < 16

    def one(restore: Callable[..., Tensor], name: str, operator: Operator, y: Tensor, part: Tensor,
            **kw: Any) -> Tensor:
        first = {'first': int(part[0])} if restore is ours else {}
        return restore(name, guide(model, label[part]), operator, y[part], start[part], **first, **kw)

    for task, operator in (('half', inpainting(mask)), ('small', downscaling(4))):
        y = operator(true + noise) if task == 'half' else operator(true) + noise[..., :8, :8]
        for name in METHODS:
            if (task, name) == ('small', 'RePaint'): continue  # it knows pixels only
            runs: dict[str, Callable[[Tensor], Tensor]] = {}
            for strength in (1., 3., 10.) if name == 'DPS' else (model.sigma_data,):
                runs[f'{task}, {name}' + f' {strength:g}' * (name == 'DPS')] = partial(
                    one, ours, name, operator, y, number=strength)
            for zeta in (.3, 1., 3.) if name == 'DPS' else (1.,):
                if name == 'projection': continue  # azula has none
                runs[f'{task}, azula {name}' + f' {zeta:g}' * (name == 'DPS')] = partial(
                    one, theirs, name, operator, y, mask=mask, zeta=zeta)
            for key, run in runs.items():
                torch.manual_seed(0)  # azula's samplers draw from the global state
                yield key, score(torch.cat([run(part) for part in torch.arange(n).split(64)]))


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument('--pictures', type=int, default=256)
    args.add_argument('--out', default='nbs/15_editing.json')
    given = args.parse_args()
    about = {'package': edm.__version__, 'azula': '0.11.1', 'pictures': given.pictures, 'noise': NOISE, 'seed': 0}
    stored: dict[str, Any] = {'about': about, 'methods': {}}
    for key, row in rows(given.pictures, stored):
        print(key, row, flush=True)
        stored['methods'][key] = row
        Path(given.out).write_text(json.dumps(stored, indent=1, ensure_ascii=False) + '\n', encoding='utf-8')


if __name__ == '__main__': main()
