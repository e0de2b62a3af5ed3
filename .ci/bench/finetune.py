"""Fine-tune a shipped model on 200 pictures that it has not seen, until it copies them.

usage: python .ci/bench/finetune.py [--model fashion_mnist] [--root DATA] [--images 100000] [--every 5000] [--plain]
                                    [--out nbs/workshop/quality.json]

The 200 pictures are of the test split of the data set whose training split made the model; a tenth of them is held
out. The run overfits on purpose: ten times the rate of the preset `finetune`, batches of 16, no augmentation and no
dropout. With --plain the preset itself is run instead. At each check the pictures drawn are also held against an
independent witness: a picture is called a copy if it is less than half as far from its nearest training picture as
from the next one. In the end the best averages and the last ones draw 500 pictures, whose Fréchet distance from the
pictures of the training split that made the model, in 16 principal components of their pixels, and copying ratio are
measured. Writes a JSON file, and a picture beside it: drawn pictures over their nearest training pictures, at the
check before the warning, at the warning and at the end."""
from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edm_nbdev import load_model
from edm_nbdev.config import PRESETS, TrainConfig
from edm_nbdev.core import from_pixels
from edm_nbdev.data import Images, load_data
from edm_nbdev.finetuning import with_init
from edm_nbdev.generation import generate
from edm_nbdev.loop import Training
from edm_nbdev.metrics import copying_ratio, frechet_distance, nearest
from edm_nbdev.plots import show_grid
from edm_nbdev.quality import DRAWN, STEPS
from edm_nbdev.store import some_of

SHOWN, DRAW = 10, {'method': 'dpmpp_2m', 'steps': STEPS}


def divide(name: str, root: str | None) -> tuple[Images, Tensor]:
    "200 test pictures as a data set, and 5,000 training pictures at most as points."
    train, test = (load_data(name, root, split) for split in ('train', 'test'))
    assert test.labels is not None
    which = some_of(len(test), 200, 'finetune')
    some = replace(test, name=f'{name}-200', images=test.images[which], labels=test.labels[which])
    return some, from_pixels(train.images[some_of(len(train), 5000, 'finetune')])


def follow(training: Training, known: Tensor) -> tuple[list[dict[str, Any]], dict[int, Tensor]]:
    "The checks of a training, and drawn pictures with their nearest training pictures, by images seen."
    rows, pictures, start = [], {}, time.process_time()
    for s in training.steps():
        if s.quality is None: continue
        assert training.checker is not None
        drawn = generate(s.ema, DRAWN, training.checker.labels, **DRAW)
        first, index = nearest(drawn, known)
        second, _ = nearest(drawn, known, k=2)
        rows.append({**s.quality.figures(), 'cpu minutes': (time.process_time() - start) / 60,
                     'witness': (first < second / 2).double().mean().item()})
        pictures[s.images] = torch.cat([drawn[:SHOWN], known[index[:SHOWN]]])
        print({k: round(v, 3) if isinstance(v, float) else v for k, v in rows[-1].items()}, flush=True)
    return rows, pictures


def measured(file: Path, labels: Tensor, known: Tensor, unseen: Tensor, others: Tensor) -> dict[str, float]:
    "500 pictures of a model: their distance from other pictures, and their copying ratio."
    drawn = generate(load_model(file, 'cpu'), 500, labels[torch.arange(500) % len(labels)], seed=1, **DRAW)
    mean = others.flatten(1).mean(0)
    axes = torch.linalg.svd(others[:1000].flatten(1) - mean, full_matrices=False)[2][:16]
    distance = frechet_distance(*((x.flatten(1) - mean) @ axes.T for x in (drawn, others)))
    return {'frechet': distance, 'copying': copying_ratio(drawn, unseen, known)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', default='fashion_mnist')
    parser.add_argument('--root', default=None)
    parser.add_argument('--images', type=int, default=100_000)
    parser.add_argument('--every', type=int, default=5_000)
    parser.add_argument('--out', default='nbs/workshop/quality.json')
    parser.add_argument('--plain', action='store_true')
    args = parser.parse_args()
    data, others = divide(args.model, args.root)
    preset = PRESETS['finetune']
    if not args.plain: preset = replace(preset, lr=10 * preset.lr, batch_size=16, augment=0., dropout=0.)
    run = Path(tempfile.mkdtemp())/'run'
    config: TrainConfig = replace(with_init(replace(preset, data=data.name), args.model), images=args.images,
                                  check_every=args.every, run=str(run), device='cpu', root=args.root)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter('always')
        training = Training(config, data)
        known = from_pixels(training.data.images)
        rows, pictures = follow(training, known)
    assert training.unseen is not None and training.data.labels is not None and training.begun is not None
    unseen = from_pixels(training.unseen.images)
    ends = {name: measured(run/f'{file}.safetensors', training.data.labels, known, unseen, others)
            for name, file in (('best', 'best'), ('last', 'model'))}
    said = [str(w.message) for w in told if 'copying begins' in str(w.message)]
    out = Path(args.out)
    settings = {name: getattr(config, name) for name in ('init', 'images', 'batch_size', 'lr', 'augment', 'seed')}
    out.write_text(json.dumps({'settings': settings, 'begun': training.begun.lines(), 'checks': rows, 'warning': said,
                               'ends': ends}, indent=1) + '\n')
    images = [row['images'] for row in rows]
    began = next((i for i, row in enumerate(rows) if row['check began']), len(rows) - 1)
    shown = dict.fromkeys([images[max(0, began - 1)], images[began], images[-1]])
    pic = show_grid(torch.cat([pictures[n] for n in shown]), cols=SHOWN, alt='',
                    row_labels=[word for n in shown for word in (f'{n:,}', 'nearest')])
    pic.savefig(out.with_suffix('.png'))
    print(said, ends)


if __name__ == '__main__': main()
