"EDM in ten lines: `load_model`, `generate`, `show_grid`. The lessons in `nbs` derive what stands behind them."

__version__ = "0.0.1"

import sys as _sys
from types import ModuleType as _ModuleType
from typing import TYPE_CHECKING as _TYPE_CHECKING

# The face of the package: names and their modules. Each loads where it is first used, so `import edm_nbdev` is instant.
_home = {
    'load_model': 'models', 'list_models': 'models', 'save_model': 'models', 'generate': 'generation',
    'show_grid': 'plots', 'load_data': 'data', 'PRESETS': 'config', 'train': 'loop', 'evaluate': 'report',
}
_modules = (
    'core', 'plots', 'streams', 'data', 'ode', 'samplers', 'designs', 'precond', 'unet', 'training', 'guidance',
    'metrics', 'playground', 'averages', 'editing', 'fewsteps', 'distill', 'match', 'transformer', 'edm2', 'bars',
    'reading', 'caches', 'pictures', 'layout', 'formats', 'augment', 'folders', 'devices', 'signals', 'runs',
    'checkpoints', 'store', 'tables', 'config', 'feeding', 'models', 'hub', 'finetuning', 'generation', 'judges',
    'quality', 'measures', 'orders', 'sharding', 'parallel', 'loop', 'tracking', 'report', 'options', 'edits', 'brush',
    'interop', 'cli', 'export', 'app',
)
__all__ = list(_home)

if _TYPE_CHECKING:  # for editors and type checkers, which do not run `__getattr__`
    from . import (
        app, augment, averages, bars, brush, caches, checkpoints, cli, config, core, data, designs, devices,
        distill, editing, edits, edm2, export, feeding, fewsteps, finetuning, folders, formats, generation,
        guidance, hub, interop, judges, layout, loop, match, measures, metrics, models, ode, options, orders,
        parallel, pictures, playground, plots, precond, quality, reading, report, runs, samplers, sharding, signals,
        store, streams, tables, tracking, training, transformer, unet,
    )
    from .config import PRESETS
    from .data import load_data
    from .generation import generate
    from .loop import train
    from .models import list_models, load_model, save_model
    from .plots import show_grid
    from .report import evaluate

def __getattr__(name):
    "Import a name of the face, or a module, where it is first used."
    if name in _home: found = getattr(_load(_home[name]), name)
    elif name in _modules: found = _load(name)
    elif name in _gone: return _sys.modules[f'{__name__}.{name}']
    else:
        raise AttributeError(f"module 'edm_nbdev' has no attribute '{name}': it has {', '.join(_home)}. The rest is in "
                             f"{', '.join(_modules)}, as in `from edm_nbdev.samplers import sample`")
    globals()[name] = found
    return found

def _load(module):
    "Import a module of the package. Raises PackageError, which says what to install, where it needs more."
    from importlib import import_module
    try: return import_module(f'{__name__}.{module}')
    except ModuleNotFoundError:
        from .core import wanted
        with wanted(): raise

def __dir__(): return sorted(['__version__', *_home, *_modules])

# Modules that are gone: for one version their names answer from their new homes, with a DeprecationWarning.
_gone = {
    'presets': dict(
        BUDGET='config', PRESETS='config', TrainConfig='config', make_denoiser='models', save_model='models',
        load_model='models', seeded='core', pick_device='devices', native_bf16='devices',
    ),
    'evaluation': dict(
        Moments='metrics', frechet_distance='metrics', kernel_distance='metrics', nearest='metrics',
        precision_recall='metrics', copying_ratio='metrics', log_likelihood='metrics', bits_per_dim='metrics',
        Classifier='judges', train_classifier='judges', load_inception='judges',
    ),
    'ema': dict(profile_product='averages', mixture='averages', saved_averages='models', reconstruct='models'),
}

class _Gone(_ModuleType):
    "A module whose names have all moved."
    def __getattr__(self, name):
        if name.startswith('__'): raise AttributeError(name)
        from .core import moved
        return moved(self.__name__, stacklevel=3, **_gone[self.__name__.rpartition('.')[2]])(name)

for _name, _homes in _gone.items():
    _sys.modules[f'{__name__}.{_name}'] = _Gone(f'{__name__}.{_name}', 'Its names have moved.')
    vars(_sys.modules[f'{__name__}.{_name}'])['__all__'] = list(_homes)
