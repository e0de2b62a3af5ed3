"""Run the notebooks' tests and say which lines of the package they run.
usage: python .ci/coverage.py [nbdev_test] [ARGUMENT OF nbdev_test ...], such as --path nbs/03_samplers.ipynb
Runs `nbdev_test` itself, then prints a table by module with the missing lines. Exit code 1: a test failed, or fewer
than 95 % of all lines ran.

A notebook tests the functions that it exports where they stand, in its own cells, and not in the module made from them.
So an exported cell is compiled under the file name and the line numbers that its code has in the module, and what runs
in the cell counts for the module. Cells with a flag of `tst_flags`, such as slow ones, do not run."""
import ast
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

root = Path(__file__).resolve().parent.parent
LEAST = 95  # percent

SETTINGS = """
[run]
source = {root}/edm_nbdev
omit = */_modidx.py
data_file = {data}/coverage
parallel = true
concurrency =
    multiprocessing
    thread
patch =
    subprocess
    _exit
[report]
show_missing = true
skip_empty = true
exclude_also =
    if _TYPE_CHECKING:
"""

def places_in_modules():
    "{code of an exported cell: (module's file, lines above it there)}"
    from nbdev.processors import NBProcessor
    found, cells = {}, {}
    for module in (root/'edm_nbdev').glob('*.py'):
        lines = module.read_text(encoding='utf-8').splitlines()
        for above, line in enumerate(lines, 1):
            marker = re.match(r'# %% \.\./nbs/(.*) #(\w+)$', line)
            if not marker: continue
            if marker[1] not in cells:
                notebook = NBProcessor(root/'nbs'/marker[1], process=True).nb
                cells[marker[1]] = {cell.id: cell.source for cell in notebook.cells if cell.cell_type == 'code'}
            code = cells[marker[1]][marker[2]]
            found[code.strip()] = (str(module), above - (len(code) - len(code.lstrip('\n'))))
    return found

def compile_in_place():
    "From now on exported cells are compiled as lines of their modules, in this process and those that it forks."
    from IPython.core.compilerop import CachingCompiler
    places, lines_above = places_in_modules(), {}
    cache, ast_parse = CachingCompiler.cache, CachingCompiler.ast_parse

    def cache_in_module(self, transformed_code, number=0, raw_code=None):
        name = cache(self, transformed_code, number, raw_code)
        if (raw_code or '').strip() not in places: return name
        file, lines_above[name] = places[raw_code.strip()]
        lines_above[file] = lines_above.pop(name)
        return file

    def parse_in_module(self, source, filename='<unknown>', symbol='exec'):
        return ast.increment_lineno(ast_parse(self, source, filename, symbol), lines_above.get(filename, 0))

    CachingCompiler.cache, CachingCompiler.ast_parse = cache_in_module, parse_in_module

def main(given):
    if os.environ.pop('EDM_UNDER_COVERAGE', ''):
        from fastcore.script import anno_parser
        from nbdev.test import nbdev_test
        options = vars(anno_parser(nbdev_test).parse_args(given))
        compile_in_place()
        return nbdev_test(**{name: value for name, value in options.items() if name not in ('pdb', 'xtra')})
    with tempfile.TemporaryDirectory() as data:
        settings = Path(data)/'settings'
        settings.write_text(SETTINGS.format(root=root, data=data))
        coverage = [sys.executable, '-m', 'coverage']
        env = {**os.environ, 'EDM_UNDER_COVERAGE': '1', 'COVERAGE_CORE': 'ctrace'}
        run = [*coverage, 'run', f'--rcfile={settings}', __file__, *given]
        tested = subprocess.run(run, cwd=root, env=env).returncode
        subprocess.run([*coverage, 'combine', '-q', f'--rcfile={settings}'], cwd=root, check=True)
        least = [] if '--path' in given else [f'--fail-under={LEAST}']
        reported = subprocess.run([*coverage, 'report', f'--rcfile={settings}', *least], cwd=root).returncode
    return int(bool(tested or reported))

if __name__ == '__main__': sys.exit(main(sys.argv[2:] if sys.argv[1:2] == ['nbdev_test'] else sys.argv[1:]))
