"""Two judges on Fashion-MNIST for models that jump: distilled along the path (lesson 16a), and matched (lesson 16b).

usage: python .ci/bench/matched.py [--root DATA] [--out nbs/16b_match.json]

Three disjoint sets of 1,000 pictures with all classes alike, from the same start noise for every row, drawn with bf16
multiplications. Fréchet distances from the training set in the features of the classifier that `edm_evaluate` uses, and
in 64 principal components of the pixels, of all 3,000 pictures with a standard error, and of each set; "spread" is the
variance in these components as a share of the training set's. The floor is the same for test pictures. "tall" is the
share of high sandals and ankle boots in the training set, as the lesson counts them. Rows that the output has already
are not measured again: remove a row to measure it anew."""
from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from fewsteps import Scores
from torch import Tensor

import edm_nbdev as edm
from edm_nbdev.core import from_pixels
from edm_nbdev.data import load_data
from edm_nbdev.generation import generate
from edm_nbdev.samplers import calls

SETS, EACH = 3, 1000
TEACHER, JUMPS, MATCHED = 'fashion_mnist', 'fashion_mnist_distilled', 'fashion_mnist_matched'
ROWS: tuple[tuple[str, str, int, dict[str, Any]], ...] = (  # model, method, steps, options of `generate`
    (TEACHER, 'heun', 18, {}), (TEACHER, 'heun', 18, {'cfg_scale': 1.3}),
    *((name, 'consistency', n, {}) for name in (JUMPS, MATCHED) for n in (1, 2, 4)))


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument('--root')
    args.add_argument('--out', type=Path, default='nbs/16b_match.json')
    given = args.parse_args()
    stored: dict[str, Any] = json.loads(given.out.read_text(encoding='utf-8')) if given.out.is_file() else {}
    stored['about'] = {'package': edm.__version__, 'sets': SETS, 'pictures in a set': EACH, 'seed': 0}
    score, rows = Scores(given.root), stored.setdefault('rows', {})

    def keep(key: str, pictures: Tensor, **more: Any) -> None:
        flat = score.features(pictures)['pixels']
        spread = flat.var(0).sum().item() / score.real['pixels'].cov.trace().item()
        rows[key] = more | score(pictures.unflatten(0, (SETS, EACH))) | {'spread': round(spread, 4)}
        print(key, rows[key], flush=True)
        given.out.write_text(json.dumps(stored, indent=1, ensure_ascii=False) + '\n', encoding='utf-8')

    n = SETS * EACH
    test = load_data('fashion_mnist', root=given.root, split='test')
    if 'real' not in rows: keep('real', from_pixels(test.images[:n]))
    for name, method, steps, options in ROWS:
        key = ', '.join([name, method, str(steps), *(f'{k} {v}' for k, v in options.items())])
        if key in rows: continue
        label = [i % 10 for i in range(n)]
        drawn = generate(edm.load_model(name, 'cpu'), n, label, method=method, steps=steps, precision='bf16', **options)
        twice = 2 if options.get('cfg_scale', 1) != 1 else 1
        keep(key, drawn, calls=twice * calls(method, steps))


if __name__ == '__main__': main()
