"""Calls against quality on Fashion-MNIST: the shipped denoiser by walks of lessons 03 and 16, and by jumps the model
distilled from it.

usage: python .ci/bench/distilled.py [--root DATA] [--each 1000] [--out nbs/16a_distilled.json] [--only consistency]

Three disjoint sets of start noise, the same for every method, with all classes alike. The score is the Fréchet distance
from the held-out test pictures, in 64 principal components of the training pixels, for each set alone; its floor is the
distance of as many training pictures. "spread" is the total variance in these components, as a share of that of the
test pictures. Pictures are drawn with bf16 multiplications. Rows that the output has already are not measured again,
those that --only names aside: give `--only consistency` after the distilled model has changed."""
from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import edm_nbdev as edm
import edm_nbdev.distill  # its sampler joins METHODS
import edm_nbdev.fewsteps  # and so do these
from edm_nbdev.core import from_pixels
from edm_nbdev.data import load_data
from edm_nbdev.guidance import guide
from edm_nbdev.metrics import Moments, frechet_distance
from edm_nbdev.samplers import calls, karras_sigmas, keyed_noise, lowest_level, sample

SETS, BATCH = 3, 50
WALKS: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {  # steps, options
    'heun': ((2, 3, 4, 6, 10, 18), {}), 'ipndm': ((4, 6, 8, 10), {'order': 4}), 'dpmpp_2m': ((6, 10), {}),
    'consistency': ((1, 2, 3, 4), {})}
MIDDLES = (.2, .8, 2.5, 8., 25.)  # middle levels of two jumps


class Scores:
    "The Fréchet distance of pictures from the test set, and how far they spread."
    def __init__(self, root: str | None, each: int) -> None:
        train, test = (load_data('fashion_mnist', root=root, split=split) for split in ('train', 'test'))
        pixels, self.real = Moments(), Moments()
        for some in train.images.split(5000): pixels.add(from_pixels(some).flatten(1))
        self.mean, self.basis = pixels.mean, torch.linalg.eigh(pixels.cov)[1][:, -64:]
        for some in test.images.split(5000): self.real.add(self.components(from_pixels(some)))
        self.floor = self([from_pixels(train.images[k * each:(k + 1) * each]) for k in range(SETS)])

    def components(self, x: Tensor) -> Tensor: return (x.clamp(-1, 1).flatten(1).double() - self.mean) @ self.basis

    def __call__(self, sets: Any) -> dict[str, Any]:
        rows = [self.components(some) for some in sets]
        spread = sum(some.var(0).sum().item() for some in rows) / len(rows) / self.real.cov.trace().item()
        return {'Fréchet': [round(float(frechet_distance(some, self.real)), 3) for some in rows],
                'spread': round(spread, 3)}


def draw(model: Any, method: str, sigmas: Tensor, n: int, options: dict[str, Any]) -> Tensor:
    "n pictures (n,1,32,32)."
    ends = []
    for first in range(0, n, BATCH):
        size = min(BATCH, n - first)
        noise = keyed_noise(0, first, size)
        x = 80 * noise(torch.empty(size, 1, 32, 32))
        fresh: Any = {'randn_like': noise} if method == 'consistency' else {}
        guided = guide(model, torch.arange(first, first + size) % 10)
        with torch.autocast('cpu', torch.bfloat16):
            ends.append(sample(guided, x, sigmas, method, **fresh, **options))
    return torch.cat(ends)


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument('--root')
    args.add_argument('--each', type=int, default=1000, help='pictures in a set')
    args.add_argument('--out', default='nbs/16a_distilled.json')
    args.add_argument('--only', help='measure this method alone, anew')
    given = args.parse_args()
    out = Path(given.out)
    about = {'package': edm.__version__, 'sets': SETS, 'pictures in a set': given.each, 'seed': 0, 'cfg_scale': 1}
    stored: dict[str, Any] = json.loads(out.read_text(encoding='utf-8')) if out.is_file() else {}
    if stored.get('about') != about: stored = {'about': about, 'methods': {}}
    score = Scores(given.root, given.each)
    stored['real'] = score.floor

    def row(key: str, method: str, sigmas: Tensor, options: dict[str, Any]) -> None:
        if given.only and method != given.only or not given.only and key in stored['methods']: return
        name = 'fashion_mnist_distilled' if method == 'consistency' else 'fashion_mnist'
        model: Any = edm.load_model(name, 'cpu').requires_grad_(False)
        drawn = draw(model, method, sigmas, SETS * given.each, options)
        stored['methods'][key] = {'calls': calls(method, len(sigmas) - 1)} | score(drawn.split(given.each))
        print(key, stored['methods'][key], flush=True)
        out.write_text(json.dumps(stored, indent=1, ensure_ascii=False) + '\n', encoding='utf-8')

    for method, (steps, options) in WALKS.items():
        for n in steps: row(f'{method}, {n}', method, karras_sigmas(n, lowest_level(method, n)), options)
    for middle in MIDDLES:
        row(f'consistency, 2, {middle:g}', 'consistency', torch.tensor([80., middle, 0.], dtype=torch.float64), {})


if __name__ == '__main__': main()
