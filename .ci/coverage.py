"""Run the notebooks' tests and say which lines of the package they run.
usage: python .ci/coverage.py [NOTEBOOK ...]
Prints a table by module with the missing lines. Exit code 1: a test failed, or fewer than 95 % of all lines ran.

A notebook tests the functions that it exports where they stand, in its own cells, and not in the module made from them.
So an exported cell is compiled under the file name and the line numbers that its code has in the module, and what runs
in the cell counts for the module. Cells with a flag of `tst_flags`, such as slow ones, do not run."""
import argparse
import ast
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

root = Path(__file__).resolve().parent.parent
LEAST = 95  # percent

SETTINGS = """
[run]
source = {root}/edm_nbdev
omit = */_modidx.py
data_file = {data}/coverage
parallel = true
patch =
    subprocess
    _exit
[report]
show_missing = true
skip_empty = true
exclude_also =
    if _TYPE_CHECKING:
"""

def places_in_module(notebook):
    "{code of an exported cell: (module's file, lines above it there)}"
    from nbdev.processors import NBProcessor
    cells = {cell.id: cell.source for cell in NBProcessor(notebook, process=True).nb.cells if cell.cell_type == 'code'}
    found = {}
    for module in (root/'edm_nbdev').glob('*.py'):
        lines = module.read_text(encoding='utf-8').splitlines()
        for above, line in enumerate(lines, 1):
            marker = re.match(r'# %% \.\./nbs/(.*) #(\w+)$', line)
            if not marker or root/'nbs'/marker[1] != notebook: continue
            code = cells[marker[2]]
            found[code.strip()] = (str(module), above - (len(code) - len(code.lstrip('\n'))))
    return found

def test_one(notebook):
    "Run the tests of a notebook in this process; whether they passed."
    from IPython.core.compilerop import CachingCompiler
    from nbdev.config import get_config
    from nbdev.test import test_nb
    places, lines_above = places_in_module(notebook), {}
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
    return test_nb(notebook, skip_flags=get_config().tst_flags.split(), basepath=root)[0]

def run_under_coverage(notebook, settings):
    "Test a notebook in a process of its own; its name, and what it printed if it failed."
    command = [sys.executable, '-m', 'coverage', 'run', f'--rcfile={settings}', __file__, '--one', str(notebook)]
    env = {**os.environ, 'IN_TEST': '1', 'COVERAGE_CORE': 'ctrace'}
    ran = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True)
    failed = f'\n{notebook} failed\n{ran.stdout[-2000:]}{ran.stderr[-6000:]}'
    print(failed if ran.returncode else '.', end='', flush=True)
    return ran.returncode

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--one', action='store_true', help=argparse.SUPPRESS)
    parser.add_argument('notebooks', nargs='*', type=Path, help='notebooks to test; all if not given')
    given = parser.parse_args()
    os.chdir(root)
    if given.one: sys.exit(not test_one(given.notebooks[0].resolve()))
    notebooks = [n.resolve() for n in given.notebooks] or sorted((root/'nbs').rglob('[!.]*.ipynb'))
    with tempfile.TemporaryDirectory() as data:
        settings = Path(data)/'settings'
        settings.write_text(SETTINGS.format(root=root, data=data))
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            failed = sum(map(bool, pool.map(lambda n: run_under_coverage(n, settings), notebooks)))
        print()
        coverage = [sys.executable, '-m', 'coverage']
        subprocess.run([*coverage, 'combine', '-q', f'--rcfile={settings}'], cwd=root, check=True)
        least = [] if given.notebooks else [f'--fail-under={LEAST}']
        report = subprocess.run([*coverage, 'report', f'--rcfile={settings}', *least], cwd=root)
    print(f'{len(notebooks) - failed} of {len(notebooks)} notebooks passed under coverage')
    sys.exit(bool(failed) or report.returncode)

if __name__ == '__main__': main()
