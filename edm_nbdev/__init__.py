"""EDM in ten lines: `load_model`, `generate`, `show_grid`. The lessons in `nbs` derive what stands behind them."""

__version__ = "0.0.1"

import importlib, os, sys

_home = {'load_model': 'presets', 'generate': 'guidance', 'show_grid': 'plots'}  # the face of the package, and the module of each name
__all__ = list(_home)

# The commands import torch when they start to work: so their --help, and a Ctrl-C, answer at once.
if not os.path.basename((getattr(sys, 'argv', None) or [''])[0]).startswith(('edm_train', 'edm_sample', 'edm_evaluate')): import torch

def __getattr__(name):
    "Import the face's names where they are first used, so that `import edm_nbdev` loads torch and nothing else that is heavy."
    if name not in _home: raise AttributeError(f"module 'edm_nbdev' has no attribute '{name}': it has {', '.join(_home)}; the rest is in its modules, as in "
                                             "`from edm_nbdev.samplers import sample`")
    return getattr(importlib.import_module(f'edm_nbdev.{_home[name]}'), name)

def __dir__(): return sorted([*globals(), *__all__])
