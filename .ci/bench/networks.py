"""Data hunger: a U-Net and a transformer of equal parameters, trained on 1,000, 10,000 and 60,000 pictures of clothes.

usage: python .ci/bench/networks.py [--root DATA] [--out nbs/17_networks.json] [--keep FOLDER]

All runs see 20,000 images, in batches of 64, with one thread, bf16 multiplications and the learning rate of lesson 07;
those with 60,000 pictures and seed 0 go on to half an epoch. The file of lesson 17 holds seed 0 only. For other sizes
change `network`, for other lengths SEEN and LONGER, which STOPS must contain, and name another output.

For the averaged weights, at eight noise levels: the loss on 500 test pictures and on the first 500 training pictures,
which every run has in its set. At the stops of the longer runs ten pictures are drawn, into a PNG beside the output: a
row for each network and stop. At their end, "gradient" is the root mean square, over 64 test pictures, of the
derivative of one pixel of the network's output by each pixel of its input, as a share of the largest, at three noise
levels. "near to far" compares two rings of this map, at the first level, for four pixels.
Rows that the output has already are not measured again. With --keep the averaged weights are written there."""
from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

import edm_nbdev as edm
from edm_nbdev.core import About, seeded, to_pixels
from edm_nbdev.data import Images, load_data
from edm_nbdev.generation import generate
from edm_nbdev.precond import Denoiser, coefficients, edm_loss
from edm_nbdev.training import Recipe, train_step
from edm_nbdev.transformer import Transformer
from edm_nbdev.unet import UNet

SIGMAS = (.05, .1, .2, .5, 1., 2., 5., 10.)
PICTURES, SEEDS, SEEN, LONGER = (60_000, 1_000, 10_000), (0, 1), 20_000, 30_000
STOPS = (5_000, 10_000, 20_000, 30_000)          # where the longer runs draw; SEEN and LONGER are among them
PIXELS, LEVELS = ((17, 17), (9, 21), (5, 5), (25, 13)), (.2, 1., 5.)   # of the gradients; all levels at the first


def network(name: str) -> nn.Module:
    "One of the two networks, for grey pictures of 32x32 pixels and ten classes."
    if name == 'unet': return UNet(32, 1, 10, width=18, mults=(1, 2, 4), patch=2)
    return Transformer(32, 1, 10, width=64, depth=6, head_channels=32, patch=4)


def train(name: str, data: Images, recipe: Recipe, images: int) -> Iterator[tuple[int, Denoiser]]:
    "Images seen and the averaged denoiser, after each step."
    with seeded('init', recipe.seed): model = Denoiser(network(name), data.sigma_data, data=About.of(data))
    ema = deepcopy(model).eval().requires_grad_(False)
    adam = torch.optim.Adam(model.parameters(), betas=(.9, recipe.beta2))
    for step in range(-(-images // recipe.batch_size)):
        train_step(model, {None: ema}, adam, data, recipe, step)
        yield (step + 1) * recipe.batch_size, ema


@torch.no_grad()
def losses(model: Denoiser, data: Images, n: int = 500) -> list[float]:
    "The loss on the first n pictures at each noise level, always with the same noise."
    y, label = data.batch(torch.arange(n))
    noise = torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
    found = []
    for sigma in SIGMAS:
        parts = zip(y.split(100), label.split(100), noise.split(100), strict=True)
        with torch.autocast('cpu', torch.bfloat16):
            each = [edm_loss(model, a, c, torch.full((len(a),), sigma), b, reduction='none') for a, c, b in parts]
        found.append(round(torch.cat(each).mean().item(), 5))
    return found


def gradient(model: Denoiser, data: Images, pixel: tuple[int, int], level: float, n: int = 64) -> Tensor:
    "How much each pixel of the input moves one pixel of the network's output at a level, relative to the most."
    y, label = data.batch(torch.arange(n))
    noise = torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
    c = coefficients(torch.tensor(level), model.sigma_data)
    x = (c.c_in * (y + level * noise)).requires_grad_()
    model.net(x, c.c_noise.reshape(1), label)[:, 0, pixel[0], pixel[1]].sum().backward()
    size = x.grad.square().mean((0, 1)).sqrt()
    return size / size.max()


def near_to_far(heard: Tensor, pixel: tuple[int, int]) -> float:
    "Root mean square of the pixels nearer than 8, but for the own patch of 4x4, over that of those beyond 12."
    place = torch.stack(torch.meshgrid(torch.arange(32), torch.arange(32), indexing='ij'), 2)
    away = (place - torch.tensor(pixel)).square().sum(2).sqrt()
    own = (place // 4 == torch.tensor(pixel) // 4).all(2)
    near, far = (heard[ring].square().mean().sqrt() for ring in (~own & (away < 8), away > 12))
    return float(f'{near / far:.3g}')


def listen(model: Denoiser, data: Images) -> dict[str, Any]:
    "The maps of the first pixel at all levels, and near to far of all pixels at the first level."
    maps = [[[float(f'{v:.3g}') for v in row] for row in gradient(model, data, PIXELS[0], level)] for level in LEVELS]
    ratios = [near_to_far(gradient(model, data, pixel, LEVELS[0]), pixel) for pixel in PIXELS]
    return {'gradient': maps, 'near to far': ratios}


class Bench:
    "What has been measured, and where it is kept."
    def __init__(self, out: Path, root: str | None, keep: Path | None) -> None:
        self.out, self.keep = out, keep
        self.data, self.test = (load_data('fashion_mnist', root=root, split=split) for split in ('train', 'test'))
        sizes = {name: sum(p.numel() for p in network(name).parameters()) for name in ('unet', 'transformer')}
        about = {'package': edm.__version__, 'torch': torch.__version__, 'sigmas': SIGMAS, 'parameters': sizes,
                 'images seen': SEEN, 'longer': LONGER, 'stops': STOPS, 'pixels': PIXELS, 'levels': LEVELS}
        about = json.loads(json.dumps(about))
        stored = json.loads(out.read_text(encoding='utf-8')) if out.is_file() else {}
        fits = stored.get('about') == about
        self.found: dict[str, Any] = stored if fits else {'about': about, 'runs': {}}

    def save(self) -> None:
        text = json.dumps(self.found, ensure_ascii=False).replace('], "', '],\n "')
        self.out.write_text(text.replace('}, "', '},\n"') + '\n', encoding='utf-8')

    def run(self, name: str, pictures: int, seed: int) -> None:
        "Train a network on so many pictures, unless that was done, and keep what it does."
        whole = (pictures, seed) == (PICTURES[0], 0)
        images = LONGER if whole else SEEN
        if f'{name}, {pictures}, {seed}, {images}' in self.found['runs']: return
        some = replace(self.data, images=self.data.images[:pictures], labels=self.data.labels[:pictures])
        recipe = Recipe(P_mean=None, precision='bf16', seed=seed)
        drawn, start = [], time.time()
        ends = {-(-stop // recipe.batch_size) * recipe.batch_size: stop for stop in STOPS}
        for seen, ema in train(name, some, recipe, images):
            stop = ends.get(seen)
            if whole and stop: drawn.append(generate(ema, 10, label=list(range(10)), steps=12, seed=0))
            if stop and self.keep: torch.save(ema.state_dict(), self.keep / f'{name}-{pictures}-{seed}-{stop}.pt')
            if stop not in (SEEN, images): continue
            row: dict[str, Any] = {'test': losses(ema, self.test), 'train': losses(ema, self.data)}
            if stop == LONGER: row |= listen(ema, self.test)
            self.found['runs'][f'{name}, {pictures}, {seed}, {stop}'] = row
            print(name, pictures, seed, stop, round(time.time() - start), np.mean(row['test']), np.mean(row['train']),
                  flush=True)
            self.save()
        if whole: self.draw(name, torch.stack(drawn))

    def draw(self, name: str, drawn: Tensor) -> None:
        "Write pictures (stop,10,1,32,32) into this network's rows of the PNG."
        png = self.out.with_suffix('.png')
        rows = np.zeros((2, len(STOPS) * 32, 320), np.uint8)
        if png.is_file(): rows = np.array(Image.open(png)).reshape(rows.shape)
        rows[int(name == 'transformer')] = to_pixels(drawn[:, :, 0]).permute(0, 2, 1, 3).reshape(-1, 320).numpy()
        Image.fromarray(rows.reshape(-1, 320)).save(png)


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument('--root')
    args.add_argument('--out', default='nbs/17_networks.json')
    args.add_argument('--keep', type=Path)
    given = args.parse_args()
    torch.set_num_threads(1)
    bench = Bench(Path(given.out), given.root, given.keep)
    for seed in SEEDS:
        for pictures in PICTURES:
            for name in ('transformer', 'unet'): bench.run(name, pictures, seed)


if __name__ == '__main__': main()
