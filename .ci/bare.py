"""The package among nothing but its core: PyTorch, NumPy, safetensors, tqdm, fastcore and what these need.

usage: python .ci/bare.py

Installs nothing: a temporary folder gets links to those packages of the environment that runs this script, and to the
package itself, and a second Python sees only that folder. There `import edm_nbdev` must be quick and must not load
PyTorch, the shipped models must load and draw, and whatever needs a missing package must say which in one line."""
from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

CORE = ('torch', 'numpy', 'safetensors', 'tqdm', 'fastcore')
PROGRAM = '''
import sys, time
began = time.process_time()
import edm_nbdev as edm
spent = time.process_time() - began  # of this process alone, however busy the machine is
assert spent < .1, f'import edm_nbdev took {spent:.2f} s'
assert 'torch' not in sys.modules, 'import edm_nbdev loads torch'
from edm_nbdev.core import InputError
for name in edm.list_models():
    model = edm.load_model(name, 'cpu')
    assert 'torch._dynamo' not in sys.modules, f'loading {name} loads the compiler'
    assert edm.generate(model, 2, steps=2).shape == (2, *model.data.shape)
print(f'import edm_nbdev: {1e3 * spent:.0f} ms; drew from {", ".join(edm.list_models())}')

def missing(package, action):
    assert package not in sys.modules
    try: action()
    except InputError as e: message = str(e)
    else: raise AssertionError(f'nothing needed {package}')
    assert package in message and 'pip install' in message and '\\n' not in message, message
    print(message)

pictures = edm.generate(edm.load_model('digits', 'cpu'), 2, steps=2)
missing('matplotlib', lambda: edm.show_grid(pictures, alt='two digits'))
missing('scikit-learn', lambda: edm.load_data('digits'))
missing('torchvision', lambda: edm.load_data('fashion_mnist'))
missing('pillow', lambda: edm.load_data('.'))
missing('ipywidgets', lambda: edm.playground)
'''


def needed(names: tuple[str, ...]) -> dict[str, Distribution]:
    "The installed packages behind names, and those behind their requirements."
    found: dict[str, Distribution] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop().lower().replace('_', '-')
        if name in found: continue
        try: found[name] = distribution(name)
        except PackageNotFoundError: continue  # for another system
        for line in found[name].requires or ():
            needs = Requirement(line)
            if needs.marker is None or needs.marker.evaluate({'extra': ''}): waiting.append(needs.name)
    return found


def link(package: Distribution, folder: Path) -> None:
    "Link the top folders and files of a package into a folder."
    for top in {file.parts[0] for file in package.files or () if file.parts[0] not in ('..', '__pycache__')}:
        here = folder/top
        if not here.exists(): here.symlink_to(str(package.locate_file(top)))  # those of CUDA share a folder


def main() -> int:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for package in needed(CORE).values(): link(package, folder)
        (folder/'edm_nbdev').symlink_to(Path(__file__).resolve().parent.parent/'edm_nbdev')
        env = {**os.environ, 'PYTHONPATH': str(folder)}
        done = subprocess.run([sys.executable, '-S', '-c', PROGRAM], env=env, cwd=folder, check=False)
        return done.returncode


if __name__ == '__main__': sys.exit(main())
