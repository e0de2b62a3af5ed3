"""Random command lines of the five commands: right, wrong and odd ones.

usage: python .ci/fuzz.py [--seed 0] [--lines 500] [--minutes 10] [--only NUMBER]

A line has options with good and broken values, folders of odd pictures, names with odd letters, places that cannot be
written, and an odd environment. Models and data are tiny. Each line works in a folder of its own, in a process that is
forked from one that has imported everything, and that runs the console script as Python would; every fiftieth line
starts the program itself. A line is right if
- it ends in time, without a traceback, and without a process left behind;
- its exit code is 0, or 2 with a last line on stderr that begins with the command's name or with argparse's usage;
  141 is right where nobody reads its output, and 120 where a help text meets a full disk, as in any Python program;
- after 0 its product is there: the picture opens, the run and its model load, the report parses;
- whatever is new or changed can be read, nothing unfinished and no empty folder is new, and the pictures it was given
  are what they were, byte for byte;
- nothing outside its folder was written.
A line that is not is printed with the command that repeats it, and shows what it says, and keeps its folder. The last
line has the counts. Exit code 1: a line was wrong, or the time was up before the last one. Needs Linux; where it runs
as root, it gives up root's right to write anywhere. No line reaches a network."""
from __future__ import annotations

import argparse
import atexit
import ctypes
import gc
import json
import os
import pwd
import random
import re
import resource
import runpy
import shlex
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

COMMANDS = ('edm_train', 'edm_sample', 'edm_sample_all', 'edm_evaluate', 'edm_data')
PATIENCE = 60      # seconds for a line: a program of its own takes ten on a busy machine
MEMORY = 6 << 30   # bytes of addresses for a line: who asks for more gets MemoryError at once
LEFT = 'is left over'
LIMIT = 50         # every so many lines, one is a program of its own

# ---- a process that has imported everything, with tiny presets

def become_plain() -> None:
    "Give up root's right to read and write whatever it likes, for this process and all that it starts."
    if sys.platform != 'linux' or os.geteuid() != 0: return
    libc = ctypes.CDLL(None, use_errno=True)
    for right in (1, 2): libc.prctl(24, right, 0, 0, 0)   # PR_CAPBSET_DROP: DAC_OVERRIDE, DAC_READ_SEARCH
    header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    libc.capget(header, data)
    for i in (0, 1, 2): data[i] &= ~0b110                 # effective, permitted, inheritable
    libc.capset(header, data)

def forbid_network() -> None:
    "Have every connection fail, as without a network."
    def fail(*_: Any, **__: Any) -> Any: raise OSError(101, 'Network is unreachable')
    socket.getaddrinfo = fail
    socket.socket.connect = fail  # type: ignore[method-assign]

def warm() -> None:
    "Import whatever a command needs, and make presets and digits tiny, before any thread is started."
    import torch
    import tqdm
    tqdm.tqdm.monitor_interval = 0
    torch.set_num_threads(1)
    from edm_nbdev import app, cli, config, data, folders, loop, report, tracking
    assert all((app, cli, folders, loop, report, tracking))
    for name, preset in config.PRESETS.items():
        small: Any = dict(depth=1, mults=(1, 2), blocks=1, attention_resolutions=())
        kept = {field: small[field] for field in config.NETWORKS[preset.net]}
        size = 8 if preset.data is None else preset.size
        config.PRESETS[name] = replace(preset, width=8, head_channels=8, patch=1, size=size, batch_size=16,
                                       ema_lengths=(.05,), **kept)
    whole: Any = data.SOURCES['digits']
    def few(name: str, root: Any, split: str, size: int) -> Any:
        digits = whole(name, root, split, size)
        return replace(digits, images=digits.images[:64], labels=digits.labels[:64])
    data.SOURCES['digits'] = few
    data.load_data('digits')

def settle() -> None:
    "Let forked processes share what is in memory by now: their collector of garbage leaves it alone."
    gc.collect()
    gc.freeze()

def plain_environment(place: Path) -> None:
    "Have all that a program keeps lie in a folder, and nothing of ours steer it."
    launcher = ('RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT')
    for name in (*launcher, 'XDG_CACHE_HOME', 'PYTHONIOENCODING'): os.environ.pop(name, None)
    shared = place.parent/'matplotlib'   # fonts take seconds to list
    os.environ.update(HOME=str(place/'home'), EDM_DATA=str(place/'cache'), TMPDIR=str(place/'tmp'), OMP_NUM_THREADS='1',
                      CUDA_VISIBLE_DEVICES='', MPLCONFIGDIR=str(shared), PYTHONDONTWRITEBYTECODE='1', COLUMNS='100')
    tempfile.tempdir = None
    sys.dont_write_bytecode = True

# ---- files

def listing(folder: Path) -> dict[str, tuple]:
    "{relative path: what it is}; of a file its digest, and what changes if the same is written again."
    found: dict[str, tuple] = {}
    for top, folders, files in os.walk(folder):
        for name in folders + files:
            path = Path(top)/name
            info, key = path.lstat(), str(path.relative_to(folder))
            if path.is_symlink(): found[key] = ('link', os.readlink(path))
            elif path.is_dir(): found[key] = ('folder',)
            elif not path.is_file(): found[key] = ('pipe',)
            else: found[key] = ('file', _digest(path), info.st_mtime_ns, info.st_ino)
    return found

def _digest(path: Path) -> str:
    "What a file holds, even if it is closed to us."
    mode = path.stat().st_mode
    if not mode & 0o400: path.chmod(0o600)
    digest = sha256(path.read_bytes()).hexdigest()[:16]
    if not mode & 0o400: path.chmod(mode)
    return digest

def cannot_read(path: Path) -> str | None:
    "What is wrong with a file of a kind that we know; None if it is whole."
    import torch

    from edm_nbdev.runs import read_weights
    try:
        if path.suffix == '.png':
            with Image.open(path) as image: image.load()
        elif path.suffix == '.json': json.loads(path.read_text())
        elif path.suffix == '.jsonl': [json.loads(line) for line in path.read_text().splitlines()]
        elif path.suffix == '.safetensors': read_weights(path)
        elif path.suffix == '.pt': torch.load(path, map_location='cpu', weights_only=True)
        elif path.suffix == '.npy': np.load(path)
        elif path.suffix in ('.part', '.lock', '.journal', '.tmp'): return LEFT
    except Exception as e: return f'cannot be read ({type(e).__name__}: {str(e)[:80]})'
    return None

def remove(folder: Path) -> None:
    "Remove a folder, whatever its rights."
    for top, _, _ in os.walk(folder): Path(top).chmod(0o700)
    for top, folders, _ in os.walk(folder):
        for name in folders:
            path = Path(top)/name
            if not path.is_symlink(): path.chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)

# ---- odd folders of pictures

def picture(seed: int = 0, side: int = 10, mode: str = 'RGB') -> Image.Image:
    "A smooth picture of two colours."
    corners = np.random.default_rng(seed).integers(0, 256, (2, 2, 3), dtype=np.uint8)
    return Image.fromarray(corners).resize((side, side + seed % 3), Image.Resampling.BILINEAR).convert(mode)

def pictures(folder: Path, n: int = 8, seed: int = 0, **kind: Any) -> None:
    "Some pictures in a folder."
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(n): picture(seed + i, **kind).save(folder/f'{i}.png')

def classes(folder: Path, *names: str, n: int = 8) -> None:
    "A folder of pictures for each class."
    for i, name in enumerate(names): pictures(folder/name, n, 100 * i)

def split(folder: Path, *, train: tuple[str, ...] = ('cat', 'dog'), test: tuple[str, ...] = ('cat', 'dog'),
          names: tuple[str, str] = ('train', 'test'), n: int = 6) -> None:
    "Pictures to train with and others to test with, by class; without classes, loose."
    for name, some, each in ((names[0], train, 16), (names[1], test, n)):
        if some: classes(folder/name, *some, n=each)
        else: pictures(folder/name, each)

def bomb(file: Path, side: int) -> None:
    "A PNG that claims to be large."
    head = b'IHDR' + side.to_bytes(4, 'big') * 2 + bytes([8, 2, 0, 0, 0])
    import zlib
    chunks = [(13).to_bytes(4, 'big') + head + zlib.crc32(head).to_bytes(4, 'big')]
    for kind, body in ((b'IDAT', zlib.compress(b'\0' * 1000)), (b'IEND', b'')):
        chunks.append(len(body).to_bytes(4, 'big') + kind + body + zlib.crc32(kind + body).to_bytes(4, 'big'))
    file.write_bytes(b'\x89PNG\r\n\x1a\n' + b''.join(chunks))

def _broken(folder: Path) -> None:
    pictures(folder, 3)
    for file in folder.iterdir(): file.write_bytes(file.read_bytes()[:60])

def _some_broken(folder: Path) -> None:
    classes(folder, 'cat', 'dog')
    (folder/'cat'/'0.png').write_bytes(b'')
    (folder/'dog'/'1.png').write_text('no picture')
    (folder/'dog'/'2.png').write_bytes((folder/'dog'/'2.png').read_bytes()[:70])

def _bombs(folder: Path) -> None:
    pictures(folder, 4)
    for side in (15_000, 60_000, 2**31 - 1): bomb(folder/f'{side}.png', side)

def _modes(folder: Path) -> None:
    "A picture of each kind and size."
    folder.mkdir()
    for i, mode in enumerate(('1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'I;16')):
        picture(i, 5 + 3 * i, mode).save(folder/f'{i}.png')
    picture(9, 9, 'CMYK').save(folder/'9.jpg')
    picture(9, 9, 'F').save(folder/'9.tif')

def _deep(folder: Path, dtype: str, most: float, kind: str) -> None:
    folder.mkdir()
    ramp = np.arange(100).reshape(10, 10) / 99
    for i in range(4): Image.fromarray((np.roll(ramp, i) * most).astype(dtype)).save(folder/f'{i}.{kind}')

def _loose_beside(folder: Path) -> None:
    classes(folder, 'cat', 'dog')
    pictures(folder, 2)

def _circle(folder: Path) -> None:
    classes(folder, 'cat', 'dog')
    (folder/'cat'/'again').symlink_to(folder)
    (folder/'nowhere').symlink_to(folder/'nowhere')
    (folder/'dog'/'link.png').symlink_to(folder/'cat'/'0.png')

def _hidden(folder: Path) -> None:
    classes(folder, 'cat', 'dog', '@eaDir', '__MACOSX')
    (folder/'.DS_Store').write_bytes(b'\0')
    (folder/'cat'/'Thumbs.db').write_bytes(b'\0')
    (folder/'dog'/'._0.png').write_bytes(b'\0')

def _with_runs(folder: Path) -> None:
    classes(folder, 'cat', 'dog')
    shutil.copytree(folder.parents[1]/'runs'/'labelled', folder/'run')
    pictures(folder/'run'/'pictures', 2)

def _odd_files(folder: Path) -> None:
    classes(folder, 'cat', 'dog')
    os.mkfifo(folder/'cat'/'pipe.png')
    (folder/'dog'/'folder.png').mkdir()
    (folder/'dog'/'0.png').chmod(0)

def _file(folder: Path) -> None: folder.write_text('no folder')

def _no_pictures(folder: Path) -> None:
    folder.mkdir()
    (folder/'notes.txt').write_text('no picture')

def _third(folder: Path) -> None:
    split(folder)
    classes(folder/'extra', 'cat')

ODD: dict[str, Callable[[Path], Any]] = {
    'empty': Path.mkdir, 'no pictures': _no_pictures, 'broken': _broken, 'some broken': _some_broken, 'bombs': _bombs,
    'one': lambda f: pictures(f, 1), 'one of each': lambda f: classes(f, 'cat', 'dog', n=1), 'modes': _modes,
    'deep 16': lambda f: _deep(f, 'uint16', 65535, 'png'), 'deep 12': lambda f: _deep(f, 'uint16', 4095, 'png'),
    'deep 32': lambda f: _deep(f, 'int32', 255, 'tif'), 'float': lambda f: _deep(f, 'float32', 1, 'tif'),
    'floats': lambda f: _deep(f, 'float32', 65535, 'tif'), 'loose beside': _loose_beside, 'circle': _circle,
    'numbers': lambda f: classes(f, '0', '5'), 'dollar': lambda f: classes(f, '$x$', '$y_'),
    'comma': lambda f: classes(f, 'a,b', 'c:1'), 'unicode': lambda f: classes(f, 'Ää', '日本', 'e\u0301'),
    'long': lambda f: classes(f, 'a' * 200, 'b' * 200), 'newline': lambda f: classes(f, 'a\nb', ' '),
    'same letters': lambda f: classes(f, 'Cat', 'cat'), 'one class': lambda f: classes(f, 'cat'),
    'many': lambda f: classes(f, *(f'class {i}' for i in range(40)), n=1), 'runs': _with_runs, 'files': _odd_files,
    'hidden': _hidden, 'split': split, 'third': _third, 'no test': lambda f: split(f, test=()),
    'new class': lambda f: split(f, test=('cat', 'cow')), 'few test': lambda f: split(f, n=1),
    'loose': lambda f: split(f, train=(), test=()), 'spelt': lambda f: split(f, names=('Train', 'Val')),
    'training': lambda f: split(f, names=('training', 'eval')), 'only test': lambda f: split(f, names=('x', 'test')),
    'grey': lambda f: pictures(f, mode='L'), 'file': _file, 'missing': lambda f: None}

# ---- lines

NAMES = ('pictures', 'my pictures', '[a-b]', '100%s', '$HOME', 'Ü日', '~', 'a,b', '{x}', "it's", 'a' * 200, '.hidden')
TEXTS = ('', ' ', 'nonesuch', 'Ü', '$x$', '%s', '%(default)s', '{0}', '~', '~no-such-user/x', '-', '*', '0', 'nan',
         'a' * 300, 'a\nb', '\udcff', 'None', '../here/x', '/dev/null', '/proc/x')
WHOLE = ('-1', '0', '1.5', '1e3', 'nan', '', 'x', ' 2 ', '1_0', '0x10', '٣', str(10**12), str(-10**12), str(10**30))
FLOATS = ('nan', 'inf', '-inf', '-1', '0', '1e308', '1e-320', '', 'x', '1,5', '-0.0')
MODELS = ('runs/labelled', 'runs/labelled', 'runs/free', 'runs/digits', 'runs/digits/model.safetensors')
BAD_MODELS = ('runs/cut', 'runs/newer', 'runs/config', 'runs/text', 'runs', 'data/split', 'runs/none', 'odd.txt')
NEW = ('new.png', 'runs/new', 'my run [1] $x', 'runs/Ü', '~/x.png', 'runs/new', 'x.PNG', 'runs/labelled', 'runs/digits')
PLACES = (*NEW, 'new/deep/x', 'odd.txt/x', 'odd.txt', 'locked/x', 'locked', 'data/split/x.png', 'x' * 300, '.', 'x.jpg',
          'runs/cut', 'runs/newer', 'runs/text')
GOOD: dict[str, tuple[str, ...]] = {
    'data': ('digits', 'data/split', 'data/flat', 'data/loose', 'cifar10', 'celeba', 'folder'),
    'preset': ('digits', 'folder', 'cifar10', 'imagenet64', 'celeba'), 'size': ('8', '12', '16', '7', '9'),
    'run': PLACES, 'out': PLACES, 'root': ('cache', 'elsewhere', 'locked', '~/data', 'odd.txt', 'data/split'),
    'device': ('cpu', 'cuda', 'cuda:9', 'mps', 'meta', 'xla', 'cpu:1'), 'precision': ('float32', 'bf16'),
    'label': ('cat', 'DOG', '0', '9', '-1', 'cow'), 'split': ('train', 'test'), 'model': MODELS + BAD_MODELS,
    'guide_model': MODELS + BAD_MODELS, 'cfg_scale': ('1.5', '0', 'cat:2,dog:0', '0:1', 'cow:2', '1,2', 'cat:nan'),
    'given': ('0.3,1.2', '1', 'data/flat', 'odd.txt', 'nan,1'),
    'cfg_interval': ('0.3,3', '3,.3', '1', '1,2,3', 'nan,1'), 'method': ('euler', 'dpmpp_2m', 'stochastic_heun'),
    'metrics': ('frechet', 'bits', 'copying,recall', 'nonesuch', ','), 'features': ('classifier', 'inception'),
    'weights': ('odd.txt', 'runs/digits/model.safetensors', 'none.pth'), 'wandb': ('disabled', 'sometimes'),
    'lr': ('1e-3', '1e9'), 'images': ('1', '16', '64', str(10**12)), 'n': ('1', '11'), 'steps': ('1', '2', '9'),
    'S_churn': ('0', '9'), 'S_noise': ('1', '0'), 'seed': ('1', '7'), 'batch_size': ('1', '5', '16'),
    'threads': ('1', '2'), 'accumulate': ('2', '5'), 'checkpoint_seconds': ('0', '1')}
BASE = {
    'edm_train': ['--images', '32', '--minutes', '.02', '--device', 'cpu'], 'edm_sample': ['--n', '4', '--steps', '3'],
    'edm_sample_all': ['--per_class', '2', '--steps', '3'], 'edm_evaluate': ['--n', '16', '--steps', '3'],
    'edm_data': ['--size', '8']}
NEVER = {'pdb', 'xtra', 'help', 'compile'}   # fastcore's own debugger, and a minute of compiling

# what may be odd about the environment: variables (None unsets them), and what else the child does
ENVIRONMENTS: tuple[dict[str, str | None], ...] = (
    {'EDM_DATA': None}, {'EDM_DATA': ''}, {'EDM_DATA': 'odd.txt'}, {'EDM_DATA': '~/data'}, {'EDM_DATA': 'locked'},
    {'EDM_DATA': 'relative dir'}, {'HOME': None}, {'HOME': None, 'EDM_DATA': None}, {'HOME': '', 'EDM_DATA': None},
    {'HOME': 'none', 'EDM_DATA': None}, {'HOME': 'locked', 'EDM_DATA': None}, {'WORLD_SIZE': '2'},
    {'WORLD_SIZE': '2', 'RANK': '0'}, {'WORLD_SIZE': '2', 'RANK': '1', 'LOCAL_RANK': '1'}, {'WORLD_SIZE': 'x'},
    {'WORLD_SIZE': '1', 'RANK': '0'}, {'PYTHONIOENCODING': 'ascii'}, {'PYTHONIOENCODING': 'latin-1'},
    {'stdout': 'closed'}, {'stdout': 'nobody reads'}, {'stdout': 'full'}, {'stdin': 'closed'}, {'TMPDIR': 'none'},
    {'TMPDIR': 'locked'}, {'COLUMNS': '1'}, {'COLUMNS': 'x'}, {'XDG_CACHE_HOME': 'locked', 'EDM_DATA': None},
    {'cwd': 'gone'}, {'USER': None, 'LOGNAME': None, 'HOME': None})
LOCKED = ('.', 'cache', 'data', 'data/split', 'runs', 'runs/labelled', 'runs/digits', 'home')

@dataclass
class Line:
    "A command line, and the world that it meets."
    number: int
    command: str
    args: list[str] = field(default_factory=list)
    environment: dict[str, str | None] = field(default_factory=dict)
    odd: tuple[str, str] | None = None       # what kind of folder, and its name below odd/
    locked: str | None = None                # a folder without the right to write

    def __str__(self) -> str:
        set_to = ' '.join(f'{k}={shlex.quote(v)}' if v is not None else f'-u {k}' for k, v in self.environment.items())
        about = [f'odd/{self.odd[1]}: {self.odd[0]}'] if self.odd else []
        if self.locked: about.append(f'{self.locked}: read-only')
        told = f"   ({', '.join(about)})" if about else ''
        words = ' '.join(shlex.quote(word) for word in [self.command, *self.args])
        return (f'env {set_to} ' if set_to else '') + words + told

def options_of(command: str) -> dict[str, tuple[Any, bool]]:
    "{option: (its type, whether it is a flag)}, the command's own."
    from fastcore.script import anno_parser

    from edm_nbdev import cli
    parser = anno_parser(getattr(cli, command).__wrapped__)
    return {a.dest: (a.type or str, a.nargs == 0) for a in parser._actions if a.option_strings and a.dest not in NEVER}

def _value(rng: random.Random, name: str, kind: Any) -> str:
    "A value, good or broken."
    good = GOOD.get(name, ())
    if good and rng.random() < .75: return rng.choice(good)
    return rng.choice({int: WHOLE, float: FLOATS}.get(kind, TEXTS))

def draw_line(seed: int, number: int) -> Line:
    "The line of a number."
    rng = random.Random(f'{seed} {number}')
    line = Line(number, rng.choice(COMMANDS))
    if rng.random() < .45: line.odd = rng.choice(list(ODD)), rng.choice(NAMES)
    folder = f'odd/{line.odd[1]}' if line.odd else rng.choice(GOOD['data'])
    first = rng.choice(MODELS) if rng.random() < .85 else rng.choice(BAD_MODELS)
    if line.command == 'edm_train': first = rng.choice(('', '', '', 'digits', 'folder', 'nonesuch'))
    if line.command == 'edm_data': first = folder
    line.args = ([first] if first else []) + BASE[line.command]
    if line.command in ('edm_train', 'edm_evaluate') and (line.odd or rng.random() < .3):
        line.args += ['--data', folder] + (['--size', '8'] if line.command == 'edm_train' else [])
    option = {'edm_train': '--run', 'edm_data': ''}.get(line.command, '--out')
    if option and rng.random() < .5: line.args += [option, rng.choice(NEW if rng.random() < .75 else PLACES)]
    _spoil(rng, line)
    if rng.random() < .35: line.environment = rng.choice(ENVIRONMENTS)
    if rng.random() < .12: line.locked = rng.choice(LOCKED)
    return line

def _spoil(rng: random.Random, line: Line) -> None:
    "Add what makes a line odd: none to three things."
    known = options_of(line.command)
    for _ in range(rng.choice((0, 0, 0, 1, 1, 1, 2, 3))):
        kind, name = rng.random(), rng.choice(sorted(known))
        if kind < .85:
            option, flag = known[name]
            line.args += [f'--{name}'] if flag else [f'--{name}', _value(rng, name, option)]
            if name.startswith('S_') and rng.random() < .8: line.args += ['--method', 'stochastic_heun']
        elif kind < .88: line.args += ['--nonesuch', '1']
        elif kind < .91: line.args += [f'--{name}']
        elif kind < .94: line.args += [rng.choice(TEXTS)]
        elif kind < .97: line.args += ['--help']
        elif not line.args[0].startswith('-'): del line.args[0]

# ---- the world of a line

def _cut(file: Path) -> None: file.write_bytes(file.read_bytes()[:file.stat().st_size // 2])

def build_world(place: Path) -> None:
    "What each line finds in its folder: pictures, runs good and broken, and room for what it makes."
    for name in ('home', 'cache', 'tmp', 'odd', 'runs', 'data', 'locked'): (place/name).mkdir(parents=True)
    (place/'odd.txt').write_text('a file')
    split(place/'data'/'split')
    classes(place/'data'/'flat', 'cat', 'dog')
    pictures(place/'data'/'loose', 20)
    plain_environment(place)
    os.chdir(place)
    from edm_nbdev.cli import edm_evaluate, edm_sample_all, edm_train
    small: dict[str, Any] = dict(images=32, device='cpu')
    edm_train(data='data/split', size=8, run='runs/labelled', **small)
    edm_train(data='data/loose', size=8, run='runs/free', **small)
    edm_train('digits', run='runs/digits', **small)
    for run in ('labelled', 'digits'): edm_evaluate(f'runs/{run}', n=16, steps=3, out='tmp/evaluation')
    edm_sample_all('runs/digits', per_class=1, steps=2, out='tmp/x.png')
    shutil.rmtree('tmp')
    Path('tmp').mkdir()
    for name in ('cut', 'newer', 'config'): shutil.copytree('runs/labelled', f'runs/{name}')
    for file in ('model.safetensors', 'state.pt'): _cut(Path('runs/cut')/file)
    for file in ('model.safetensors', 'state.pt'): Path('runs/config', file).unlink()
    newer = Path('runs/newer/model.safetensors')
    newer.write_bytes(re.sub(rb'"format": "\d', b'"format": "9', newer.read_bytes(), count=1))
    Path('runs/text').mkdir()
    Path('runs/text/notes.txt').write_text('no run')

def enter_world(line: Line, world: Path, place: Path) -> None:
    "A fresh copy of the world where it was made, as runs name their pictures by a whole path; with what is odd."
    shutil.copytree(world, place, symlinks=True)
    if line.odd: ODD[line.odd[0]](place/'odd'/line.odd[1])
    (place/'locked').chmod(0o555)
    if line.locked: (place/line.locked).chmod(0o555)

# ---- a line's process

def _streams(line: Line, log: Path) -> None:
    "Give this process its own standard streams."
    stdout = line.environment.get('stdout')
    for number, name in ((1, 'out'), (2, 'err')):
        opened = os.open(log/name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(opened, number)
        os.close(opened)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    if line.environment.get('stdin') == 'closed': os.close(0)
    if stdout == 'closed': os.close(1)
    if stdout == 'full':
        full = os.open('/dev/full', os.O_WRONLY)
        os.dup2(full, 1)
        os.close(full)
    if stdout == 'nobody reads':
        reader, writer = os.pipe()
        os.dup2(writer, 1)
        for end in (reader, writer): os.close(end)

def _python_streams(line: Line) -> None:
    "Have Python see the streams as it would at its start."
    encoding = line.environment.get('PYTHONIOENCODING') or 'utf-8'
    if line.environment.get('stdin') == 'closed': sys.stdin = None
    else: sys.stdin = open(0, closefd=False)
    if line.environment.get('stdout') == 'closed': sys.stdout = None
    else: sys.stdout = open(1, 'w', encoding=encoding, closefd=False)
    sys.stderr = open(2, 'w', 1, encoding=encoding, errors='backslashreplace', closefd=False)

def _surround(line: Line, place: Path) -> None:
    "Set variables, working directory and limits of this process."
    os.chdir(place)
    for name, value in line.environment.items():
        if name in ('stdout', 'stdin', 'cwd'): continue
        if value is None: os.environ.pop(name, None)
        else: os.environ[name] = str(place/value) if value and name in ('HOME', 'TMPDIR', 'XDG_CACHE_HOME') else value
    if line.environment.get('cwd') == 'gone':
        os.mkdir('gone')
        os.chdir('gone')
        os.rmdir(place/'gone')
    if 'HOME' in line.environment:                            # nor does the system know one
        def nobody(*_: Any) -> Any: raise KeyError('uid not found')
        pwd.getpwuid = nobody
    used = int(Path('/proc/self/statm').read_text().split()[0]) * os.sysconf('SC_PAGE_SIZE')
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

_WRITES = ('os.mkdir', 'os.rename', 'os.remove', 'os.rmdir', 'os.truncate', 'os.link', 'os.symlink', 'os.chmod')

def _watch(allowed: tuple[str, ...], note: int) -> None:
    "Note and forbid what this process is about to write elsewhere."
    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event == 'open':
            if not isinstance(args[2], int) or not args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT): return
            paths: tuple[Any, ...] = args[:1]
        elif event in _WRITES: paths = args[:2]
        else: return
        for path in paths:
            if not isinstance(path, (str, bytes, os.PathLike)): continue
            try: whole = os.path.abspath(os.fsdecode(path))
            except OSError: continue                          # the working directory is gone
            if whole.startswith(allowed): continue
            os.write(note, f'{event} {whole}\n'.encode(errors='replace'))
            raise PermissionError(13, 'Permission denied', whole)
    sys.addaudithook(hook)

def as_python(script: str) -> int:
    "Run a script as Python would, to its end; its exit code."
    code: Any = 0
    try: runpy.run_path(script, run_name='__main__')
    except SystemExit as e: code = e.code
    except KeyboardInterrupt: code = 130
    except BaseException:
        traceback.print_exc()
        code = 1
    if isinstance(code, str): print(code, file=sys.stderr)
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    try:
        if sys.stdout is not None: sys.stdout.flush()
    except (OSError, ValueError) as e:
        print(f'Exception ignored while flushing sys.stdout: {e!r}', file=sys.stderr)
        return 120
    return 1 if isinstance(code, str) else code or 0

def _child(line: Line, place: Path, log: Path, program: bool) -> None:
    "Be the line's process. Never returns."
    code = 99
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _streams(line, log)
        _surround(line, place)
        script = str(shutil.which(line.command))
        os.environ.update(http_proxy='http://127.0.0.1:9', https_proxy='http://127.0.0.1:9')
        if program: os.execv(script, [line.command, *line.args])
        _python_streams(line)
        note = os.open(log/'outside', os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        _watch((str(place), '/dev/', '/proc', *(['/tmp', '/var/tmp'] if 'TMPDIR' in line.environment else [])), note)
        sys.argv = [script, *line.args]
        code = as_python(script)
    finally: os._exit(code)

def _end_group(pid: int) -> bool:
    "End what a process has left behind; whether there was anything."
    for _ in range(20):
        try: os.killpg(pid, 0)
        except ProcessLookupError: return False
        time.sleep(.1)
    with suppress(ProcessLookupError): os.killpg(pid, signal.SIGKILL)
    return True

def run_line(line: Line, place: Path, log: Path, program: bool) -> tuple[int | None, bool, float]:
    "Run a line; its exit code (None: it did not end), whether it left processes behind, and its seconds."
    log.mkdir(exist_ok=True)
    for file in log.iterdir(): file.unlink()
    started = time.monotonic()
    pid = os.fork()
    if pid == 0: _child(line, place, log, program)
    ended, status = 0, 0
    while not ended and time.monotonic() - started < PATIENCE:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if not ended: time.sleep(.005)
    seconds = time.monotonic() - started
    if not ended:
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return None, False, seconds
    return os.waitstatus_to_exitcode(status), _end_group(pid), seconds

# ---- what is right

def check_output(line: Line, code: int | None, log: Path) -> Iterator[str]:
    "What is wrong with an exit code and with what was printed."
    stdout = line.environment.get('stdout')
    out, err = ((log/name).read_bytes().decode(errors='backslashreplace') for name in ('out', 'err'))
    if code is None: yield f'has not ended after {PATIENCE} s'
    elif code == 2:
        last = (err.strip().splitlines() or [''])[-1].rpartition('\r')[2]
        usage = f'usage: {line.command}' in err
        if not usage and not last.startswith(f'{line.command}: '): yield f"its last line is '{last[-150:]}'"
    elif code == 120 and stdout == 'full' and {'--help', '-h'} & set(line.args): return  # Python's own words
    elif code and (code, stdout) != (141, 'nobody reads'): yield f'exit code {code}'
    for text in ('Traceback', 'Exception ignored', 'Fatal Python error', 'terminate called', 'Warning: '):
        if text in out + err and not (text == 'Traceback' and '--debug' in line.args):
            where = (out + err).partition(text)[2].strip().splitlines()
            yield f"{text} in its output, the last line of it: {where[-1][:150] if where else ''}"
    if (log/'outside').exists():
        for path in sorted(set((log/'outside').read_text().splitlines())): yield f'writes outside its folder: {path}'

PRODUCTS = {'edm_train': '.png', 'edm_sample': '.png', 'edm_sample_all': '.png', 'edm_evaluate': '.json'}

def check_files(line: Line, code: int | None, place: Path, before: dict[str, tuple], after: dict[str, tuple],
                ) -> Iterator[str]:
    "What is wrong with the files that a line has left."
    new = [path for path, what in after.items() if what != before.get(path)]
    for path in new:
        if after[path][0] == 'file':
            wrong = cannot_read(place/path)
            if wrong: yield f'{path} {wrong}'
        if after[path][0] == 'folder' and not path.endswith(('/cache', 'torchinductor_root')):
            if not any(other.startswith(f'{path}/') for other in after): yield f'{path} is an empty folder'
    asked = {line.args[i + 1] for i, word in enumerate(line.args[:-1]) if word in ('--out', '--run', '--root')}
    inside = any(value.startswith(('odd', 'data')) or value in ('.', '') for value in asked)
    for path, what in before.items():
        if path in asked: continue
        given = path.startswith(('data/', 'odd/', 'odd.txt')) and what[0] != 'folder'
        if given and after.get(path, ())[:2] != what[:2]: yield f'{path} was changed'
        elif path not in after and not path.startswith(('cache/', 'runs/')): yield f'{path} is gone'
    if not inside:
        yield from (f'{path} was made among the pictures' for path in new if path.startswith(('data/', 'odd/')))
    if code == 0 and not {'--help', '-h'} & set(line.args): yield from _check_product(line, place, after, new)

def _check_product(line: Line, place: Path, after: dict[str, tuple], new: list[str]) -> Iterator[str]:
    "What is missing of what a successful line makes."
    from edm_nbdev.models import load_model
    from edm_nbdev.runs import read_state
    if line.command not in PRODUCTS: return
    made = [place/path for path in new if after[path][0] == 'file']
    if line.command == 'edm_train':
        runs = [file.parent for file in made if file.name == 'samples.png']
        if not runs: yield 'there are no samples'
        for run in runs:
            try:
                load_model(run, 'cpu')
                read_state(run)
            except Exception as e: yield f'its run cannot be loaded: {e}'
    elif line.command == 'edm_evaluate':
        reports = [file for file in made if file.suffix == '.json' and place/'cache' not in file.parents]
        if not any('metrics' in json.loads(file.read_text()) for file in reports): yield 'there is no report'
    else:
        opened = 0
        for file in made:
            with suppress(OSError), Image.open(file): opened += 1
        if not opened: yield 'there is no picture'

def try_line(line: Line, world: Path, place: Path, log: Path) -> tuple[list[str], int | None, float]:
    "Run a line in a fresh world; what is wrong, its exit code and its seconds."
    if place.exists(): remove(place)
    enter_world(line, world, place)
    before = listing(place)
    program = line.number % LIMIT == LIMIT - 1 and line.command != 'edm_train' and 'HOME' not in line.environment
    code, left, seconds = run_line(line, place, log, program)
    wrong = [*check_output(line, code, log), *check_files(line, code, place, before, listing(place))]
    return wrong + ['left processes behind'] * left, code, seconds

# ---- all lines

def fuzz(options: argparse.Namespace, top: Path) -> tuple[int, int]:
    "Try all lines; how many were right and wrong."
    place, world, log = top/'here', top/'world', top/'log'
    with open(top/'building', 'w') as building, redirect_stdout(building), redirect_stderr(building): build_world(place)
    os.chdir(top)
    place.rename(world)
    settle()
    started, codes, slowest, took = time.monotonic(), Counter[str](), (0., -1), 0.
    right = wrong = 0
    for number in range(options.lines) if options.only is None else [options.only]:
        if time.monotonic() - started > 60 * options.minutes: break
        line = draw_line(options.seed, number)
        found, code, seconds = try_line(line, world, place, log)
        codes[str(code)] += 1
        slowest, took = max(slowest, (seconds, number)), took + seconds
        right, wrong = right + (not found), wrong + bool(found)
        if not found and options.only is None: continue
        repeat = f'python .ci/fuzz.py --seed {options.seed} --only {number}'
        print(f'{repeat}\n  {line}', *(f'  WRONG: {what}' for what in found), sep='\n', flush=True)
        if options.only is not None:
            for name in ('out', 'err'): print(f'--- {name}', (log/name).read_text(errors='replace'), sep='\n')
            print(f'its folder is {place}')
    ended = ', '.join(f'{code}: {count}' for code, count in sorted(codes.items()))
    print(f'exit codes {ended}; {took:.0f} s, the slowest {slowest[0]:.1f} s (line {slowest[1]}), all in all '
          f'{time.monotonic() - started:.0f} s')
    return right, wrong

def main() -> None:
    "Try lines, and print the counts."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--seed', type=int, default=0, help='other lines (0)')
    parser.add_argument('--lines', type=int, default=500, help='how many (500)')
    parser.add_argument('--minutes', type=float, default=10., help='and no longer than this (10)')
    parser.add_argument('--only', type=int, help='one line alone, by its number: shows what it says')
    options = parser.parse_args()
    top = Path(tempfile.mkdtemp(prefix='fuzz-')).resolve()
    sys.stdout.reconfigure(errors='backslashreplace')  # type: ignore[union-attr]
    become_plain()
    forbid_network()
    try:
        plain_environment(top/'here')
        warm()
        right, wrong = fuzz(options, top)
    finally:
        if options.only is None: remove(top)
    print(f'{right + wrong} command lines: {right} right, {wrong} wrong')
    sys.exit(bool(wrong) or options.only is None and right < options.lines)

if __name__ == '__main__': main()
