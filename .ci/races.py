"""Processes that do the same at the same time, round by round.

usage: python .ci/races.py [--rounds 50] [--processes 2 4 8] [--race WORDS] [--quick]

In each round some processes, forked from one that has imported everything, are released at once in a fresh folder:
- they read a new folder of pictures into one cache: all get the same pixels as one alone;
- they evaluate a model whose judge is not yet trained, with the same settings or with different ones: the numbers are
  those of one alone;
- they save models to one file, and load it: what is loaded is one of them, whole;
- they start a training on one run: one trains, and the others are told that the run is in use;
- they write one picture: it is one of theirs, whole.
None may fail, and the files at the end must be those that lone processes leave. Prints a line for each race and number
of processes; --quick takes three rounds of four processes, for a minute. Exit code 1: something went wrong. Needs
Linux, or another system that can fork."""
from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faults import digest, make_model, names
from fuzz import classes, plain_environment, remove, settle, split, warm

PATIENCE = 120  # seconds for a round

# ---- what a process does: it gets its number, and returns what it has found

def read_folder(i: int) -> str:
    "Read the pictures."
    from edm_nbdev.data import load_data
    found = load_data('data/many', size=8)
    return digest(found.images, found.labels, found.classes, found.sigma_data)

def _evaluate(**settings: Any) -> str:
    from edm_nbdev.models import load_model
    from edm_nbdev.report import evaluate
    return digest(evaluate(load_model('runs/labelled', 'cpu'), 'reports', n=10, **settings).metrics)

def evaluate_alike(i: int) -> str:
    "Evaluate with the settings of all."
    return _evaluate(steps=2)

def evaluate_apart(i: int) -> str:
    "Evaluate with settings of its own."
    return _evaluate(steps=1 + i % 2, seed=i // 2)

def save_and_load(i: int) -> str:
    "Save a model, or load what is there; all the models that were seen."
    from edm_nbdev.models import load_model, save_model
    if i % 2:
        for _ in range(3): save_model('mine.safetensors', make_model(i))
        return digest(make_model(i).state_dict())
    return ' '.join(digest(load_model('mine.safetensors', 'cpu').state_dict()) for _ in range(6))

def train_one_run(i: int) -> str:
    "Train until all the others have been told that the run is in use."
    from dataclasses import replace

    from edm_nbdev.config import PRESETS
    from edm_nbdev.core import RunError
    from edm_nbdev.loop import train
    config = replace(PRESETS['digits'], run='runs/new', images=10**6, device='cpu', threads=1)
    others, started = int(os.environ['OTHERS']), time.monotonic()
    try:
        for _ in train(config):
            told = sum(1 for _ in Path('tmp').glob('told-*'))
            if told >= others or time.monotonic() - started > PATIENCE / 2: break
    except RunError as e:
        Path(f'tmp/told-{i}').touch()
        if 'in use' not in str(e): raise
        return 'told'
    return 'trained'

def write_picture(i: int) -> str:
    "Write a picture of its own; its bytes are read at the end."
    from edm_nbdev.cli import edm_sample
    edm_sample('runs/labelled', n=2, steps=2, seed=i, out='x.png')
    return ''

@dataclass(frozen=True)
class Race:
    "Something that several processes do at once."
    name: str
    act: Callable[[int], str]
    file: str = ''            # a file of which the last writer wins: its content must be that of one of them

RACES = (Race('a new folder', read_folder), Race('one evaluation', evaluate_alike),
         Race('different evaluations', evaluate_apart), Race('one model file', save_and_load, 'mine.safetensors'),
         Race('one run', train_one_run), Race('one picture', write_picture, 'x.png'))

# ---- processes

def start(race: Race, i: int, place: Path, log: Path, gate: tuple[int, int]) -> int:
    "Fork a process that waits at the gate, acts, and writes down what it has found; its id."
    pid = os.fork()
    if pid: return pid
    code = 1
    try:
        os.setsid()
        os.chdir(place)
        os.dup2(os.open(log/f'said-{i}', os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        os.dup2(2, 1)
        sys.stdout = sys.stderr = open(2, 'w', 1, closefd=False)
        os.close(gate[1])
        os.read(gate[0], 1)                   # the end of the pipe: all writers have closed it
        (log/f'found-{i}').write_text(race.act(i))
        code = 0
    except BaseException: traceback.print_exc()
    finally: os._exit(code)

def release(race: Race, numbers: list[int], place: Path, log: Path) -> list[str]:
    "Run processes at once; what each has found, or 'ERROR' and why not."
    for file in log.iterdir(): file.unlink()
    gate = os.pipe()
    os.environ['OTHERS'] = str(len(numbers) - 1)
    waiting = {start(race, i, place, log, gate): i for i in numbers}
    for end in gate: os.close(end)
    codes, deadline = {}, time.monotonic() + PATIENCE
    while waiting and time.monotonic() < deadline:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid in waiting: codes[waiting.pop(pid)] = os.waitstatus_to_exitcode(status)
        elif not pid: time.sleep(.002)
    for pid in waiting:
        with suppress(ProcessLookupError): os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    def found(i: int) -> str:
        if codes.get(i) == 0: return (log/f'found-{i}').read_text()
        said = (log/f'said-{i}').read_text().strip().splitlines() or ['']
        return f'ERROR code {codes.get(i, "none: it has not ended")}: {said[-1][:300]}'
    return [found(i) for i in numbers]

def content(race: Race, place: Path) -> str:
    "The content of the file that the last writer wins."
    return digest((place/race.file).read_bytes()) if race.file and (place/race.file).exists() else ''

@dataclass
class Alone:
    "What processes find, and leave, one after the other."
    found: list[str]       # by each
    contents: set[str]     # the file's, after each
    left: Counter[str]     # all names at the end

def one_by_one(race: Race, count: int, world: Path, place: Path, log: Path) -> Alone:
    "Run the same processes one after the other."
    fresh(world, place)
    found, contents = [], set()
    for i in range(1 if race.act is train_one_run else count):
        found += release(race, [i], place, log)
        contents.add(content(race, place))
    assert not any(what.startswith('ERROR') for what in found), found
    return Alone(found, contents, names(place))

def fresh(world: Path, place: Path) -> None:
    "A fresh copy of the world, where it was made."
    if place.exists(): remove(place)
    shutil.copytree(world, place)

def judge(race: Race, alone: Alone, found: list[str], place: Path) -> list[str]:
    "What is wrong after a round."
    wrong = [what for what in found if what.startswith('ERROR')]
    if race.act is save_and_load:
        models = {model for what in alone.found for model in what.split()}
        models |= {digest(make_model(0).state_dict())}
        wrong += ['a model that nobody saved' for what in found for model in what.split()
                  if not what.startswith('ERROR') and model not in models]
    elif race.act is train_one_run:
        if found.count('trained') != 1: wrong.append(f'{found.count("trained")} have trained')
    else: wrong += ['another result' for one, what in zip(alone.found, found) if what not in (one, *wrong)]
    if race.file and content(race, place) not in alone.contents: wrong.append(f'{race.file} is not whole')
    return wrong

def run(race: Race, rounds: int, count: int, world: Path, place: Path, log: Path) -> int:
    "All rounds of a race; prints its line, and returns how many rounds went wrong."
    started, alone = time.monotonic(), one_by_one(race, count, world, place, log)
    failures = 0
    left: Counter[str] = Counter()
    said: set[str] = set()
    bad = 0
    for _ in range(rounds):
        fresh(world, place)
        found = release(race, list(range(count)), place, log)
        for told in (place/'tmp').glob('told-*'): told.unlink()
        wrong, over = judge(race, alone, found, place), names(place)
        over.subtract(alone.left)
        differ = Counter({name: n for name, n in over.items() if n})
        failures, bad = failures + len(wrong), bad + bool(wrong or differ)
        said |= set(wrong)
        left.update(differ.keys())
    over_text = 'nothing left over' if not left else f'left over or missing: {dict(left.most_common(4))}'
    seconds = time.monotonic() - started
    print(f'{race.name}: {rounds} rounds of {count} processes, {failures} failures, {over_text} ({seconds:.0f} s)')
    print(*(f'  WRONG: {what}\n' for what in sorted(said)[:8]), sep='', end='', flush=True)
    return bad

def build(place: Path, log: Path) -> None:
    "What all races find: pictures, a small run, a model."
    for name in ('home', 'cache', 'tmp', 'runs', 'data'): (place/name).mkdir(parents=True)
    split(place/'data'/'split')
    classes(place/'data'/'many', 'cat', 'dog', n=140)
    os.chdir(place)
    from edm_nbdev.cli import edm_evaluate, edm_train
    from edm_nbdev.models import save_model
    with open(log/'building', 'w') as building, redirect_stdout(building), redirect_stderr(building):
        edm_train(data='data/split', size=8, run='runs/labelled', images=32, device='cpu')
        edm_evaluate('runs/labelled', n=16, steps=3, out='tmp/evaluation')   # imports the rest
        save_model('mine.safetensors', make_model(0))
    for name in ('cache', 'tmp'): remove(Path(name))
    for name in ('cache', 'tmp'): Path(name).mkdir()
    os.chdir(place.parent)
    settle()

def main() -> None:
    "Run all races."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=int, default=50, help='rounds of each race (50)')
    parser.add_argument('--processes', type=int, nargs='+', default=[2, 4, 8], help='how many at once (2 4 8)')
    parser.add_argument('--race', default='', help='only those with these words in their name')
    parser.add_argument('--quick', action='store_true', help='three rounds of four processes')
    options = parser.parse_args()
    if options.quick: options.rounds, options.processes = 3, [4]
    top = Path(tempfile.mkdtemp(prefix='races-')).resolve()
    place, world, log = top/'here', top/'world', top/'log'
    log.mkdir()
    plain_environment(place)
    total = bad = 0
    try:
        warm()
        build(place, log)
        place.rename(world)
        for race in RACES:
            if options.race not in race.name: continue
            for count in options.processes:
                bad += run(race, options.rounds, count, world, place, log)
                total += options.rounds
    finally: remove(top)
    print(f'{total} rounds: {total - bad} right, {bad} wrong')
    sys.exit(bool(bad))

if __name__ == '__main__': main()
