"""The same training on a quiet machine and beside one busy process, with several settings of the threads.

usage: python .ci/bench/contention.py [--preset digits] [--rounds 5] [--seconds 5] [--busy 1] [--quick]
                                      [--out FILE.json]

The busy process is a loop in pure Python: it takes a core, and no memory. Ours is what `train` does as shipped. The
others are the step of `steps.py` that peers would write, with all threads and the usual waiting of their OpenMP (a
thread that has finished its share spins until the others have), with passive waiting, and with one thread. Each round
measures all of them quiet, then all of them beside the busy process."""
from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from measure import Worker, in_turn, machine, summary, table, write

STEPS = Path(__file__).with_name('steps.py')
SETTINGS: dict[str, tuple[str, dict[str, str]]] = {  # by name: whose step, and what the environment says
    'ours': ('ours', {}),
    'all threads, usual waiting': ('plain', {}),
    'all threads, passive waiting': ('plain', {'OMP_WAIT_POLICY': 'passive'}),
    'one thread': ('plain', {'OMP_NUM_THREADS': '1', 'MKL_NUM_THREADS': '1'}),
}

@contextmanager
def busy(
    count: int,  # how many processes
) -> Iterator[None]:
    "Inside the block, so many cores are kept busy by others."
    others = [subprocess.Popen([sys.executable, '-c', 'while True: pass']) for _ in range(count)]
    try: yield
    finally:
        for other in others:
            other.kill()
            other.wait()

def measure(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    "Rates by setting, quiet and beside busy processes."
    task = {'preset': options.preset, 'precision': 'float32', 'n': 1, 'sampler_steps': 2,
            'batch_size': 8 if options.quick else None}
    workers: dict[str, Worker] = {}
    rates: dict[str, dict[str, list[float]]] = {name: {'quiet': [], 'busy': []} for name in SETTINGS}
    try:
        for name, (kind, env) in SETTINGS.items(): workers[name] = Worker(STEPS, {**task, 'kind': kind}, env=env)
        for _ in range(options.rounds):
            for how, count in (('quiet', 0), ('busy', options.busy)):
                with busy(count): found = in_turn(workers, 'train', 1, options.seconds)
                for name, values in found.items(): rates[name][how] += values
    finally:
        for worker in workers.values(): worker.close()
    return {name: {how: summary(values) for how, values in of.items()} for name, of in rates.items()}

def main() -> None:
    "Read the options, measure, print."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--preset', default='digits', help='what is trained')
    parser.add_argument('--rounds', type=int, default=5, help='how often each is measured')
    parser.add_argument('--seconds', type=float, default=5., help='how long each time')
    parser.add_argument('--busy', type=int, default=1, help='how many busy processes')
    parser.add_argument('--quick', action='store_true', help='a rehearsal: its numbers mean nothing')
    parser.add_argument('--out', help='JSON file to write')
    options = parser.parse_args()
    if options.quick: options.rounds, options.seconds = 1, .2
    about = machine()
    print(json.dumps(about), flush=True)
    found = measure(options)
    best = {how: max(row[how]['median'] for row in found.values()) for how in ('quiet', 'busy')}
    rows = []
    for name, row in found.items():
        quiet, beside = row['quiet']['median'], row['busy']['median']
        rows.append([name, quiet, beside, f'{beside / quiet:.2f}', f"{quiet / best['quiet']:.2f}",
                     f"{beside / best['busy']:.2f}", row['busy']['least']])
    others = 'one busy process' if options.busy == 1 else f'{options.busy} busy processes'
    print(f"\n## {options.preset}, images/s of training, quiet and beside {others}")
    print(table(['setting', 'quiet', 'busy', 'busy / quiet', 'quiet / best', 'busy / best', 'worst turn busy'], rows))
    write(options.out, {'machine': about, 'preset': options.preset, 'busy': options.busy, 'settings': found})

if __name__ == '__main__': main()
