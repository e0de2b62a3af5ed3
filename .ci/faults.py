"""What is left when a program dies, or may not write, at each of the places where it writes.

usage: python .ci/faults.py [--places 16] [--quick] [--scenario WORDS] [--show]

Seven scenarios write all that the package keeps: a cache of pictures, a run, a training from start to end, a
distillation, an evaluation, a picture, a model. Each runs in a forked process in which whatever writes is wrapped:
open, write, truncate, fsync, rename, unlink, mkdir, flush of a memory map. Place k is the k-th such call. There the
process is killed, or the disk is full from then on, or the file system is read-only from then on, or a signal comes; a
full disk cuts a write in the middle, and so does a kill if the write is longer than a page. Then:
- what is left under its final name can be read, and the exit code is the fault's;
- the same command succeeds, and its result is to the bit that of an undisturbed one;
- nothing is left that an undisturbed one does not leave.
Prints a table, and what is wrong to stderr. Where there are more places than --places, it takes them evenly; --quick
takes three, for a minute. --show prints the places of a scenario. Exit code 1: something was wrong. Needs Linux."""
from __future__ import annotations

import argparse
import builtins
import errno
import io
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from fuzz import LEFT, as_python, cannot_read, pictures, plain_environment, remove, settle, split, warm

PATIENCE = 60  # seconds for a process
PAGE = 4096    # bytes: a kill does not cut a shorter write, a full disk does
FAULTS = ('kill', 'full disk', 'read-only', 'SIGTERM', 'SIGINT')

# ---- places

class Places:
    "Counts the calls that write below a folder, and has the fault happen at one of them."
    def __init__(self, folder: Path, fault: str | None, at: int, notes: Path) -> None:
        self.folder, self.fault, self.at, self.count = f'{folder}{os.sep}', fault, at, 0
        self.notes = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        self.write, self.lock = os.write, threading.RLock()

    def holds(self, path: Any) -> bool:
        "Whether a path lies below the folder."
        if isinstance(path, int):
            try: path = os.readlink(f'/proc/self/fd/{path}')
            except OSError: return False
        return os.path.abspath(os.fsdecode(path)).startswith(self.folder)

    def reach(self, what: str, path: Any, grows: bool = True, half: Callable[[], Any] | None = None) -> None:
        "A call that writes, about to happen; `grows`: it needs room. `half` writes the first half of what it would."
        with self.lock:
            self.count += 1
            now = self.count
        if isinstance(path, int): path = os.readlink(f'/proc/self/fd/{path}')
        self.write(self.notes, f'{now} {what} {os.path.relpath(os.fsdecode(path), self.folder)}\n'.encode())
        if self.fault in ('SIGTERM', 'SIGINT') and now == self.at:
            os.kill(os.getpid(), getattr(signal, self.fault))
        elif self.fault == 'kill' and now == self.at:
            if half: half()
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.fault == 'full disk' and now >= self.at and grows:
            if half and now == self.at: half()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fsdecode(path))
        elif self.fault == 'read-only' and now >= self.at:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), os.fsdecode(path))

def wrap(places: Places) -> None:
    "Wrap whatever writes, in this process."
    class File(io.FileIO):
        "A file whose every write is a place."
        def write(self, data: Any, /) -> int:
            size = memoryview(data).nbytes
            half = memoryview(data).cast('B')[:size // 2]
            cut = places.fault == 'full disk' or size > PAGE
            places.reach('write', self.name, half=(lambda: super(File, self).write(half)) if cut else None)
            return super().write(data)

        def truncate(self, size: int | None = None, /) -> int:
            places.reach('truncate', self.name)
            return super().truncate(size)

    plain = builtins.open
    def opened(file: Any, mode: str = 'r', buffering: int = -1, encoding: Any = None, errors: Any = None,
               newline: Any = None, closefd: bool = True, opener: Any = None) -> Any:
        if not set(mode) & set('wax+') or isinstance(file, int) or not places.holds(file):
            return plain(file, mode, buffering, encoding, errors, newline, closefd, opener)
        places.reach(f'open {mode}', file)
        raw = File(file, mode.replace('b', '').replace('t', ''), closefd, opener)
        if not buffering: return raw
        buffered: Any = (io.BufferedRandom if '+' in mode else io.BufferedWriter)(raw)
        return buffered if 'b' in mode else io.TextIOWrapper(buffered, encoding, errors, newline)
    builtins.open = io.open = opened
    for name in ('replace', 'rename', 'unlink', 'remove', 'mkdir', 'rmdir', 'fsync', 'write', 'ftruncate', 'link'):
        _wrap_call(os, name, places)
    _wrap_call(os, 'open', places)
    _wrap_call(np.memmap, 'flush', places)

def _wrap_call(home: Any, name: str, places: Places) -> None:
    "Wrap a function of os, or a method of a memory map."
    call = getattr(home, name)
    grows = name in ('mkdir', 'write', 'ftruncate', 'fsync', 'open', 'flush', 'link')
    def wrapped(first: Any, *args: Any, **kw: Any) -> Any:
        path = first.filename if name == 'flush' else first
        writes = name != 'open' or args and args[0] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        anchored = kw.get('dir_fd') is not None     # rmtree names files by their folder
        if writes and path is not None and (anchored or places.holds(path)):
            places.reach(name, path, grows)
        return call(first, *args, **kw)
    setattr(home, name, wrapped)

# ---- scenarios

@dataclass(frozen=True)
class Scenario:
    "Something that writes."
    name: str
    before: Callable[[], Any]               # makes what is there at the start
    act: Callable[[], Any] | list[str]      # what writes, or a command line
    result: Callable[[], Any]               # what it has made, to be compared
    check: Callable[[], Any] = lambda: None  # raises an exception if a fault has damaged what was there

def digest(*things: Any) -> str:
    "A digest of tensors and plain values in any structure."
    import torch
    digest = sha256()
    def add(thing: Any) -> None:
        if torch.is_tensor(thing): digest.update(thing.detach().contiguous().cpu().numpy().tobytes())
        elif isinstance(thing, dict): add([*thing.items()])
        elif isinstance(thing, (list, tuple)):
            for part in thing: add(part)
        else: digest.update(repr(thing).encode())
    add(things)
    return digest.hexdigest()

def make_model(seed: int) -> Any:
    "A tiny denoiser of digits."
    from dataclasses import replace

    from edm_nbdev.config import PRESETS
    from edm_nbdev.data import load_data
    from edm_nbdev.models import make_denoiser
    return make_denoiser(replace(PRESETS['digits'], seed=seed), load_data('digits'))

def _save_run(step: int) -> None:
    "Write all the files of a run."
    from dataclasses import asdict

    from edm_nbdev.config import encode_config
    from edm_nbdev.models import model_header
    from edm_nbdev.runs import cut_log, save_config, save_state, save_weights, snapshot_name
    run, model = Path('runs/saved'), make_model(step)
    (run/'snapshots').mkdir(parents=True, exist_ok=True)
    config = encode_config(model.config)
    save_config(run, config, data=asdict(model.data))
    save_state(run, {'step': step, 'config': config, 'model': model.state_dict()})
    save_weights(run/'model.safetensors', model.state_dict(), **model_header(model.data, model.config, None, step))
    save_weights(run/'snapshots'/snapshot_name(1000 * step, .05), model.state_dict(), images=step, length=.05)
    with open(run/'log.jsonl', 'a') as log: log.write(json.dumps({'step': step}) + '\n')
    cut_log(run, step)

def _saved_run() -> str:
    "What a run holds."
    from edm_nbdev.runs import read_state, read_weights
    run = Path('runs/saved')
    steps = sorted({json.loads(line)['step'] for line in (run/'log.jsonl').read_text().splitlines()})
    files = sorted(file for file in run.rglob('*.safetensors'))
    return digest(read_state(run), [read_weights(file)[0] for file in files], (run/'config.json').read_text(), steps)

def _check_saved_run() -> None:
    from edm_nbdev.models import load_model
    from edm_nbdev.runs import read_state
    assert read_state('runs/saved')['step'] in (1, 2)
    load_model('runs/saved', 'cpu')

def _trained() -> str:
    "What a training has made."
    from edm_nbdev.runs import read_state, read_weights
    run = Path('runs/new')
    steps = [json.loads(line)['step'] for line in (run/'log.jsonl').read_text().splitlines()]
    state = {k: v for k, v in read_state(run).items() if k != 'config'}
    files = sorted(file for file in run.rglob('*.safetensors'))
    return digest(state, steps, [read_weights(file)[0] for file in files], (run/'samples.png').read_bytes())

def _check_trained() -> None:
    from edm_nbdev.runs import read_state, state_files
    if state_files('runs/new'): read_state('runs/new')

def _read() -> str:
    "The pictures of the folder, from the cache."
    from edm_nbdev.data import load_data
    found = load_data('data/many', size=8)
    return digest(found.images, found.labels, found.classes, found.sigma_data)

def _reported() -> str:
    "The numbers of the only report."
    reports = [file for file in Path('reports').glob('*.json') if 'metrics' in json.loads(file.read_text())]
    return digest([sorted(json.loads(file.read_text())['metrics'].items()) for file in reports])

def _save_model(seed: int) -> None:
    from edm_nbdev.models import save_model
    save_model('mine.safetensors', make_model(seed))

def _loaded() -> str:
    from edm_nbdev.models import load_model
    return digest(load_model('mine.safetensors', 'cpu').state_dict())

def _check_picture() -> None:
    assert cannot_read(Path('x.png')) is None

def _many() -> None:
    for i, name in enumerate(('cat', 'dog')): pictures(Path('data/many')/name, 140, 1000 * i)

def _nothing() -> None: pass

NEW_RUN = '--run runs/new --images 1024 --batch_size 512 --checkpoint_seconds 0 --device cpu'.split()

SCENARIOS = (
    Scenario('read a folder', _many, ['edm_data', 'data/many', '--size', '8'], _read),
    Scenario('save a run', lambda: _save_run(1), lambda: _save_run(2), _saved_run, _check_saved_run),
    Scenario('train', _nothing, ['edm_train', '--data', 'data/split', '--size', '8', *NEW_RUN], _trained,
             _check_trained),
    Scenario('distil', _nothing, ['edm_distill', 'runs/labelled', *NEW_RUN], _trained, _check_trained),
    Scenario('evaluate', _nothing, ['edm_evaluate', 'runs/labelled', '--n', '16', '--steps', '3', '--out', 'reports'],
             _reported),
    Scenario('write a picture', lambda: Path('x.png').write_bytes(Path('data/split/train/cat/0.png').read_bytes()),
             ['edm_sample', 'runs/labelled', '--n', '4', '--steps', '3', '--out', 'x.png'],
             lambda: digest(Path('x.png').read_bytes()), _check_picture),
    Scenario('save a model', lambda: _save_model(1), lambda: _save_model(2), _loaded, _loaded))

# ---- processes

def _act(scenario: Scenario) -> int:
    "Do what the scenario does; its exit code."
    from edm_nbdev.core import InputError
    if isinstance(scenario.act, list):
        sys.argv = [str(shutil.which(scenario.act[0])), *scenario.act[1:]]
        return as_python(sys.argv[0])
    try: scenario.act()
    except (InputError, OSError) as e:
        print(f'{e}', file=sys.stderr)
        return 2
    except KeyboardInterrupt: return 130
    return 0

def fork(place: Path, log: Path, work: Callable[[], int]) -> int:
    "Do some work in a process of its own; its exit code, negative for a signal, 1000 if it does not end."
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setsid()
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.chdir(place)
            for number, name in ((1, 'out'), (2, 'err')):
                os.dup2(os.open(log/name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
            sys.stdout, sys.stderr = open(1, 'w', closefd=False), open(2, 'w', 1, closefd=False)
            code = work()
        except BaseException: traceback.print_exc()
        finally:
            with suppress(Exception): sys.stdout.flush()
            os._exit(code)
    started, ended, status = time.monotonic(), 0, 0
    while not ended and time.monotonic() - started < PATIENCE:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if not ended: time.sleep(.002)
    with suppress(ProcessLookupError): os.killpg(pid, signal.SIGKILL)
    if ended: return os.waitstatus_to_exitcode(status)
    os.waitpid(pid, 0)
    return 1000

def run(scenario: Scenario, place: Path, log: Path, fault: str | None = None, at: int = 0) -> tuple[int, list[str]]:
    "Run a scenario, maybe with a fault; its exit code, and the places that it reached."
    def work() -> int:
        wrap(Places(place, fault, at, log/'places'))
        return _act(scenario)
    code = fork(place, log, work)
    return code, (log/'places').read_text().splitlines()

def ask(question: Callable[[], Any], place: Path, log: Path) -> str:
    "What a function says of the files, asked in a process of its own; an error as its last line."
    def work() -> int:
        (log/'answer').write_text(str(question()))
        return 0
    if fork(place, log, work): return 'ERROR ' + ((log/'err').read_text().strip().splitlines() or ['?'])[-1]
    return (log/'answer').read_text()

def names(place: Path) -> Counter[str]:
    "All files and folders, and how many of each where a random word tells them apart."
    return Counter(re.sub(r'[0-9a-f]{8,16}(?=[.])', '*', str(path.relative_to(place))) for path in place.rglob('*'))

CODES = {'kill': (-signal.SIGKILL,), 'full disk': (2,), 'read-only': (2,), 'SIGTERM': (143, -signal.SIGTERM),
         'SIGINT': (130,)}

@dataclass
class Row:
    "A row of the table: counts of places."
    places: int = 0
    whole: int = 0    # what is left can be read
    same: int = 0     # the next one's result is that of an undisturbed one
    left: int = 0     # something unfinished was left
    swept: int = 0    # and the next one removed it
    wrong: int = 0

class Trial:
    "A scenario: its world at the start, and what it does when nobody disturbs it."
    def __init__(self, scenario: Scenario, world: Path, place: Path, log: Path) -> None:
        self.scenario, self.place, self.log = scenario, place, log
        self.world = world.with_name('start')
        for folder in (self.world, place):
            if folder.exists(): remove(folder)
        shutil.copytree(world, place)
        assert fork(place, log, lambda: scenario.before() and 0 or 0) == 0, (log/'err').read_text()
        shutil.copytree(place, self.world)
        code, self.places = run(scenario, place, log)
        assert code == 0, (log/'err').read_text()
        self.result, self.names = ask(scenario.result, place, log), names(place)
        assert not self.result.startswith('ERROR'), self.result

    def try_at(self, fault: str, at: int, row: Row) -> list[str]:
        "Have a fault at a place, then run again; counts in the row, and returns what is wrong."
        remove(self.place)
        shutil.copytree(self.world, self.place)
        wrong = []
        code, reached = run(self.scenario, self.place, self.log, fault, at)
        error = (self.log/'err').read_text().strip().splitlines()[-1:]
        if code not in (0, *CODES[fault]): wrong.append(f'exit code {code}: {error}')
        unfinished = names(self.place) - names(self.world) - self.names
        damaged = [*self._damage()]
        said = ask(self.scenario.check, self.place, self.log)
        damaged += [f'afterwards: {said}'] if said.startswith('ERROR') else []
        code, _ = run(self.scenario, self.place, self.log)
        if code: wrong.append(f'the next one: exit code {code}: {(self.log/"err").read_text().strip()[-200:]}')
        result = ask(self.scenario.result, self.place, self.log)
        if result != self.result: wrong.append(f'the next one has another result: {result[:150]}')
        after = names(self.place)
        if after != self.names: wrong.append(f'the next one leaves {dict(after - self.names)}, and lacks '
                                             f'{dict(self.names - after)}')
        row.places += 1
        row.whole += not damaged
        row.same += result == self.result and not code
        row.left += bool(unfinished)
        row.swept += bool(unfinished) and not after - self.names
        row.wrong += bool(wrong or damaged)
        where = reached[at - 1] if len(reached) >= at else f'{at}'
        return [f'{fault} at {where}: {what}' for what in damaged + wrong]

    def _damage(self) -> Iterator[str]:
        "What is wrong with files under their final names."
        for file in sorted(file for file in self.place.rglob('*') if file.is_file() and not file.name.startswith('.')):
            what = cannot_read(file)
            if what and what != LEFT: yield f'{file.relative_to(self.place)} {what}'

def evenly(count: int, most: int) -> list[int]:
    "At most so many of the numbers 1..count, evenly."
    return list(range(1, count + 1)) if count <= most else [1 + i * (count - 1) // (most - 1) for i in range(most)]

def rows(options: argparse.Namespace, top: Path) -> Iterator[tuple[str, str, int, Row, list[str]]]:
    "Scenario, fault, number of places, row and what is wrong."
    world, place, log = top/'world', top/'here', top/'log'
    log.mkdir()
    build(place, log)
    place.rename(world)
    for scenario in SCENARIOS:
        if options.scenario not in scenario.name: continue
        started = time.monotonic()
        trial = Trial(scenario, world, place, log)
        if options.show: print(f'{scenario.name}, {time.monotonic() - started:.1f} s', *trial.places, sep='\n  ')
        for fault in FAULTS:
            row, wrong = Row(), []
            for at in evenly(len(trial.places), options.places): wrong += trial.try_at(fault, at, row)
            yield scenario.name, fault, len(trial.places), row, wrong

def build(place: Path, log: Path) -> None:
    "What all scenarios find: pictures, and a small run."
    for name in ('home', 'cache', 'tmp', 'runs', 'data'): (place/name).mkdir(parents=True)
    split(place/'data'/'split')
    os.chdir(place)
    from edm_nbdev import tracking
    from edm_nbdev.cli import edm_evaluate, edm_train
    with open(log/'building', 'w') as building, redirect_stdout(building), redirect_stderr(building):
        edm_train(data='data/split', size=8, run='runs/labelled', images=32, device='cpu')
        edm_evaluate('runs/labelled', n=16, steps=3, out='tmp/evaluation')   # imports the rest
    for name in ('cache', 'tmp'): remove(Path(name))
    for name in ('cache', 'tmp'): Path(name).mkdir()
    tracking.write_log = partial(tracking.write_log, every=1)   # so that there is a log
    os.chdir(place.parent)
    settle()

def main() -> None:
    "Print the table; what is wrong goes to stderr."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--places', type=int, default=16, help='places to try of each scenario and fault (16)')
    parser.add_argument('--quick', action='store_true', help='three places')
    parser.add_argument('--scenario', default='', help='only those with these words in their name')
    parser.add_argument('--show', action='store_true', help='print the places')
    options = parser.parse_args()
    if options.quick: options.places = 3
    top, started = Path(tempfile.mkdtemp(prefix='faults-')).resolve(), time.monotonic()
    plain_environment(top/'here')
    tried = bad = 0
    try:
        warm()
        print('| scenario | fault | places tried | whole before | whole after | swept by the next | wrong |')
        print('|---|---|---|---|---|---|---|')
        for name, fault, count, row, found in rows(options, top):
            print(f'| {name} | {fault} | {row.places} of {count} | {row.whole} | {row.same} | {row.swept} of {row.left}'
                  f' | {row.wrong} |', flush=True)
            print(*(f'WRONG {name}, {what}\n' for what in found), sep='', end='', file=sys.stderr, flush=True)
            tried, bad = tried + row.places, bad + row.wrong
    finally: remove(top)
    print(f'{tried} faults in {time.monotonic() - started:.0f} s: {tried - bad} right, {bad} wrong')
    sys.exit(bool(bad))

if __name__ == '__main__': main()
