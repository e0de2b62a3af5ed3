"""Collect what `job.py` needs on a bare machine into pieces that can be sent one by one.

usage: python .ci/gpu/pack.py --out FOLDER [--root FOLDER] [--cifar10 NAME_OR_FOLDER] [--faces FILE.tar]
                              [--limit 60] [--toy]

The pieces are piece-0.tar, piece-1.tar, ... of at most --limit MB: the package with its models, the job, fastcore and
what it imports (copied from this environment: pure Python), FashionMNIST's four files as they are, and CIFAR-10 as
npz files of pixels. --root is where `load_data` finds data; --cifar10 may also be a folder of pictures, with train and
test. Beside the pieces lies run.sh: where torch, torchvision, safetensors, scikit-learn and matplotlib are,

    bash run.sh FOLDER --out RESULTS

unpacks those pieces that are beside it into FOLDER, and runs the job once all have come, in this call or in earlier
ones. It installs nothing. --toy packs a few made-up pictures instead, for a rehearsal."""
from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tarfile
from importlib.metadata import distribution
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from edm_nbdev.data import Images, data_root, images_from, load_data  # noqa: E402

CIFAR10 = 'airplane automobile bird cat deer dog frog horse ship truck'.split()
RUN = """#!/usr/bin/env bash
# usage: bash run.sh FOLDER [options of job.py]: unpack the pieces beside this file, and run the job once all are there
here=$(cd "$(dirname "$0")" && pwd); folder=$1; shift; mkdir -p "$folder"
for piece in "$here"/piece-*.tar; do tar xf "$piece" -C "$folder" && touch "$folder/$(basename "$piece").here"; done
[ "$(ls "$folder"/piece-*.tar.here | wc -l)" -ge COUNT ] || { echo "not all of COUNT pieces have come"; exit 0; }
PYTHONPATH="$folder:$folder/site" exec "${PYTHON:-python3}" "$folder/.ci/gpu/job.py" --data "$folder/data" "$@"
"""

def copy(file: Path, to: Path) -> None:
    "Copy a file, with the folders above it."
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, to)

def collect_code(stage: Path) -> None:
    "The package, the job, and which commit they are of."
    for file in [*(ROOT/'edm_nbdev').rglob('*.py'), *(ROOT/'edm_nbdev').rglob('*.safetensors'),
                 *(ROOT/'.ci'/'gpu').glob('*.py'), ROOT/'.ci'/'bench'/'measure.py']:
        copy(file, stage/file.relative_to(ROOT))
    commit = subprocess.run(['git', 'describe', '--always', '--dirty'], cwd=ROOT, capture_output=True, text=True)
    (stage/'COMMIT').write_text(commit.stdout)

def collect_package(name: str, stage: Path, seen: set[str]) -> None:
    "An installed package and what it needs. Raises ValueError for one that is not pure Python."
    if name in seen: return
    seen.add(name)
    found = distribution(name)
    for file in found.files or ():
        if file.parts[0] == '..' or '__pycache__' in file.parts: continue  # commands, and what Python makes itself
        if file.suffix in ('.so', '.pyd'): raise ValueError(f'{name} is not pure Python: {file}')
        copy(Path(str(found.locate_file(file))), stage/'site'/str(file))
    for needed in found.requires or ():
        match = re.match(r'[\w.-]+', needed)
        if match and 'extra ==' not in needed: collect_package(match.group(), stage, seen)

def collect_fashion_mnist(root: Path, stage: Path) -> None:
    "The four files of FashionMNIST. Raises FileNotFoundError if they are not there."
    for part in ('train-images-idx3', 'train-labels-idx1', 't10k-images-idx3', 't10k-labels-idx1'):
        name = f'FashionMNIST/raw/{part}-ubyte.gz'
        copy(root/name, stage/'data'/name)

def write_cifar10(data: Images, split: str, stage: Path, shard: int) -> None:
    "Pixels as differences from the left neighbour, which compress better, and labels; so many in a file."
    pixels = data.images.numpy()
    assert data.labels is not None
    (stage/'data').mkdir(parents=True, exist_ok=True)
    for i, start in enumerate(range(0, len(pixels), shard)):
        part = slice(start, start + shard)
        np.savez_compressed(stage/'data'/f'cifar10-{split}-{i}.npz', classes=np.array(data.classes),
                            steps=np.diff(pixels[part], axis=-1, prepend=np.uint8(0)), labels=data.labels[part].numpy())

def write_idx(file: Path, values: np.ndarray) -> None:
    "An uncompressed file of FashionMNIST's format: torchvision checks sums of compressed ones only."
    file.parent.mkdir(parents=True, exist_ok=True)
    head = np.array([0x800 + values.ndim, *values.shape], dtype='>i4').tobytes()
    file.write_bytes(head + values.astype(np.uint8).tobytes())

def collect_toys(stage: Path) -> None:
    "A few pictures of each kind: digits, enlarged."
    from PIL import Image
    for split, kind, count in (('train', 'train', 60), ('test', 't10k', 30)):
        digits = load_data('digits', split=split)
        assert digits.labels is not None
        small, labels = digits.images[:count].numpy(), digits.labels[:count].numpy()  # (n,1,8,8)
        large = small.repeat(4, axis=-1).repeat(4, axis=-2)                           # (n,1,32,32)
        write_idx(stage/'data'/'FashionMNIST'/'raw'/f'{kind}-images-idx3-ubyte', large[:, 0, 2:30, 2:30])
        write_idx(stage/'data'/'FashionMNIST'/'raw'/f'{kind}-labels-idx1-ubyte', labels)
        colour = np.concatenate([large, large[:, :, ::-1], large[..., ::-1]], axis=1)  # (n,3,32,32)
        write_cifar10(images_from(colour, labels, CIFAR10, 'cifar10'), split, stage, 40)
    for i, picture in enumerate(large[:20, 0]):
        file = stage/'data'/'faces'/('smile' if i % 3 else 'neutral')/f'{i}.png'
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).resize((64, 64)).save(file)

def cut(stage: Path, out: Path, limit: float) -> int:
    "Put all files into pieces of at most `limit` bytes. Returns how many."
    pieces: list[list[Path]] = [[]]
    size = 0
    for file in sorted(file for file in stage.rglob('*') if file.is_file()):
        room = file.stat().st_size + 2048  # with its header, and the rest of its last block
        if room > limit: raise ValueError(f'{file.name} alone is larger than a piece')
        if size + room > limit:
            pieces.append([])
            size = 0
        pieces[-1].append(file)
        size += room
    for i, files in enumerate(pieces):
        with tarfile.open(out/f'piece-{i}.tar', 'w') as tar:
            for file in files: tar.add(file, file.relative_to(stage))
    return len(pieces)

def main() -> None:
    "Collect, cut, and write run.sh."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', required=True, help='folder of the pieces; what is in it must be of an earlier call')
    parser.add_argument('--root', help='where data sets lie')
    parser.add_argument('--cifar10', default='cifar10', help='a name, or a folder with train and test')
    parser.add_argument('--faces', help='tar of a folder `faces`')
    parser.add_argument('--limit', type=float, default=60., help='MB a piece')
    parser.add_argument('--toy', action='store_true', help='made-up pictures, for a rehearsal')
    options = parser.parse_args()
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob('piece-*.tar'): old.unlink()
    with TemporaryDirectory() as folder, TemporaryDirectory() as cache:
        stage = Path(folder)
        collect_code(stage)
        collect_package('fastcore', stage, set())
        if options.toy: collect_toys(stage)
        else:
            collect_fashion_mnist(data_root(options.root), stage)
            root = cache if Path(options.cifar10).is_dir() else options.root  # nothing is left beside the pictures
            for split in ('train', 'test'): write_cifar10(load_data(options.cifar10, root, split), split, stage, 5_000)
        if options.faces:
            with tarfile.open(options.faces) as tar: tar.extractall(stage/'data', filter='data')
        count = cut(stage, out, options.limit * 1e6 - 20_480)
    (out/'run.sh').write_text(RUN.replace('COUNT', str(count)))
    for file in sorted(out.glob('piece-*.tar')): print(f'{file}: {file.stat().st_size / 1e6:.1f} MB')

if __name__ == '__main__': main()
