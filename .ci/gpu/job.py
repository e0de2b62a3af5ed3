"""The job for the first minutes with a GPU: it runs on a bare machine, without network, with nothing installed.

usage: python job.py --out FOLDER [--data FOLDER] [--work FOLDER] [--minutes 9.5] [--limits 75,135,150]
                     [--parts 1,2,3,4] [--device cuda] [--part4 cifar10] [--start FILE.safetensors] [--no_compile]
                     [--toy]

1  does everything work: versions, a step of every preset, fused attention, resuming, `generate`, `evaluate`
2  how fast: images/s and the share of the card's matrix peak, eager and compiled, in bf16; sampling; the profile
3  fashion_mnist trained by the clock, and judged
4  the rest of the time: cifar10 (or --part4 faces, a folder `faces` in --data) trained by the clock, from --start if
   given; weights in half precision, and the moments of the features of 50,000 pictures

Each part is a process of its own (`parts.py`) with a limit of time: one that hangs, or breaks its GPU, takes nothing
from the others. What is found is in OUT/results.json after each step, and all that is printed in OUT/log.txt. `pack.py`
makes the folder to bring along. --toy rehearses all of it on the CPU, in minutes of one core. The exit status is 1 if
anything failed, or, in a rehearsal, if anything was left out for lack of time."""
from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TextIO

LIMITS = '75,135,150'  # seconds; the last part takes the rest, with what the others leave
LEAST = 20.            # no part begins with less

def read_options(argv: list[str] | None = None) -> argparse.Namespace:
    "The command line."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', required=True, help='where results, log, weights and pictures go')
    parser.add_argument('--data', help='FashionMNIST/raw and cifar10-*.npz, as pack.py collects them')
    parser.add_argument('--work', help='where runs are kept while the job lasts (default: OUT.work)')
    parser.add_argument('--minutes', type=float, default=9.5, help='for all parts together')
    parser.add_argument('--limits', default=LIMITS, help='seconds at most for parts 1, 2 and 3')
    parser.add_argument('--parts', default='1,2,3,4', help='which parts')
    parser.add_argument('--device', default='cuda', help='where to compute')
    parser.add_argument('--part4', default='cifar10', choices=['cifar10', 'faces'], help='what the last part trains')
    parser.add_argument('--start', help='weights that the last part goes on from; Adam starts afresh')
    parser.add_argument('--no_compile', action='store_true', help='leave torch.compile out, as without a compiler')
    parser.add_argument('--toy', action='store_true', help='rehearse on the CPU at toy size')
    options = parser.parse_args(argv)
    if options.toy: options.device, options.minutes = 'cpu', max(options.minutes, 15.)
    options.work = options.work or f'{options.out}.work'
    return options

class Log:
    "What is printed, also in a file, line by line."
    def __init__(self, file: Path) -> None:
        self.file: TextIO = open(file, 'a', encoding='utf-8')

    def __call__(self, line: str) -> None:
        "Print a line."
        print(line, flush=True)
        self.file.write(line + '\n')
        self.file.flush()

def run_part(part: int, seconds: float, options: argparse.Namespace, log: Log, **changes: str) -> str | None:
    "Run a part, with other options if given, for at most so many seconds. Returns what went wrong, if anything did."
    options = argparse.Namespace(**{**vars(options), **changes})
    command = [sys.executable, '-u', str(Path(__file__).with_name('parts.py')), '--part', str(part)]
    command += ['--ends', f'{time.time() + seconds:.1f}']
    for name in ('out', 'work', 'device', 'part4', 'data', 'start', 'name'):
        if getattr(options, name, None): command += [f'--{name}', getattr(options, name)]
    for name in ('toy', 'no_compile'):
        if getattr(options, name): command.append(f'--{name}')
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors='replace',
                               start_new_session=True)
    timer = threading.Timer(seconds, os.killpg, (process.pid, signal.SIGKILL))  # with all that it has started
    timer.start()
    try:
        assert process.stdout is not None
        for line in process.stdout: log(line.rstrip('\n'))
        status = process.wait()
    except BaseException:  # a Ctrl-C, say: nothing stays behind
        os.killpg(process.pid, signal.SIGKILL)
        raise
    finally: timer.cancel()
    if status == -signal.SIGKILL: return f'killed after {seconds:.0f} s'
    return None if status == 0 else f'status {status}'

def failures(out: Path, parts: list[str]) -> list[str]:
    "Steps of these parts that failed or were left out, as results.json has them."
    file = out/'results.json'
    found = json.loads(file.read_text()) if file.is_file() else {}
    return [f'{part}: {name}: {kind}: {row[kind]}' for part in parts for name, row in found.get(part, {}).items()
            for kind in ('failed', 'skipped') if kind in row]

def main() -> int:
    "Run the parts, one after the other. Returns the exit status."
    options = read_options()
    out, began, bad = Path(options.out), time.monotonic(), []
    out.mkdir(parents=True, exist_ok=True)
    log = Log(out/'log.txt')
    names, limits = [], [float(limit) for limit in options.limits.split(',')]
    for part in map(int, options.parts.split(',')):
        names.append(f'part {part}')
        left = 60 * options.minutes - (time.monotonic() - began)
        limit = left if options.toy else min([left, *limits[part - 1:part]])
        log(f'== part {part}, {limit:.0f} s, {time.monotonic() - began:.0f} s after the start')
        wrong = run_part(part, limit, options, log) if limit >= LEAST else f'only {left:.0f} s were left'
        if wrong:
            log(f'== part {part} did not end well: {wrong}')
            bad.append(part)
    if options.toy and '4' in options.parts:
        again = {'start': str(out/'cifar10.safetensors'), 'work': f'{options.work}.again'}
        for name, changes in {'part 4 again': again, 'part 4 with faces': {'part4': 'faces'}}.items():
            names.append(name)
            log(f'== {name}, {time.monotonic() - began:.0f} s after the start')
            wrong = run_part(4, 60 * options.minutes, options, log, name=name, **changes)
            if wrong: bad.append(4)
    noted = failures(out, names)
    log(f'== end after {time.monotonic() - began:.0f} s: ' + ('; '.join(noted) or 'nothing failed'))
    wrong_steps = [note for note in noted if options.toy or ': skipped: ' not in note]
    return 1 if bad or wrong_steps else 0

if __name__ == '__main__': sys.exit(main())
