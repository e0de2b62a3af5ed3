"""Make the course's web site in _site/ from the committed notebooks and their outputs. usage: python .ci/site/build.py
No notebook is run. What runs networks in a browser comes from the npm registry; where that cannot be reached, or
edm_nbdev[export] is missing, the page that draws is left out. Any warning, such as a link to a heading that is missing,
fails the build."""
import ast
import inspect
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import warnings
from configparser import ConfigParser
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from urllib.parse import unquote

from fastcore.docments import docments
from sphinx.application import Sphinx

root = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(root))
from edm_nbdev._modidx import d as modidx
from edm_nbdev.brush import Brush
from edm_nbdev.core import InputError
from edm_nbdev.export import export_onnx
from edm_nbdev.generation import is_distilled
from edm_nbdev.models import load_model

warnings.filterwarnings('ignore', 'Unknown section')    # in docstrings of matplotlib, which a class here inherits
mathjax = files('sphinx-mathjax-offline')/'static'/'mathjax'/'tex-svg.js'   # MathJax 3.2.2 in one file
lessons = sorted(path for path in (root/'nbs').glob('*.ipynb') if path.stem != 'index')
rooms = (  # from the ground up
         'house', 'core', 'plots', 'streams', 'bars', 'reading', 'caches', 'pictures', 'layout', 'augment', 'formats',
         'folders', 'devices', 'signals', 'runs', 'checkpoints', 'store', 'tables', 'config', 'feeding', 'models',
         'hub', 'finetuning', 'generation', 'judges', 'quality', 'measures', 'orders', 'sharding', 'parallel',
         'loop', 'tracking', 'report', 'options', 'edits', 'brush', 'interop', 'commands', 'cluster', 'export', 'app')
workshop = [root/'nbs'/'workshop'/f'{room}.ipynb' for room in rooms]
notebooks = lessons + workshop
modules = {name: import_module(name) for name in sorted(modidx['syms'])}
home = {name: module for module in modules for name in modules[module].__all__}   # where each name is described
onnx_runtime = 'onnxruntime-web@1.22.0'  # its program has 11 MB, that of 1.30.0 has 14 MB
config = dict(
    project='edm_nbdev', author='the edm_nbdev team', copyright='2026 onwards, the edm_nbdev team', language='en',
    extensions=['myst_nb', 'sphinx.ext.mathjax'], nitpicky=True, nitpick_ignore_regex=[('py:class', '.*')],
    root_doc='index', nb_execution_mode='off', nb_ipywidgets_js={}, nb_merge_streams=True,
    nb_render_markdown_format='myst', nb_code_prompt_show='Show the code', nb_code_prompt_hide='Hide the code',
    myst_enable_extensions=['dollarmath', 'amsmath', 'fieldlist', 'html_image'], myst_dmath_double_inline=True,
    myst_heading_anchors=4, myst_heading_slug_func='__main__.slug',
    mathjax_path='tex-svg.js', mathjax3_config={'options': {'menuOptions': {'settings': {'assistiveMml': True}}}},
    add_module_names=False, toc_object_entries_show_parents='hide',
    html_theme='sphinx_book_theme', html_title='edm_nbdev', html_copy_source=False, html_scaled_image_link=False,
    html_show_sourcelink=False, html_static_path=[str(Path(__file__).parent/'static'), str(mathjax)],
    html_css_files=['site.css'], html_favicon=str(Path(__file__).parent/'static'/'icon.svg'),
    html_last_updated_fmt=None, html_use_index=False, html_domain_indices=False,
    html_context={'default_mode': 'auto'},
    html_theme_options={
        'navbar_persistent': [], 'use_download_button': False, 'use_fullscreen_button': False,
        'pygments_light_style': 'a11y-high-contrast-light', 'pygments_dark_style': 'a11y-high-contrast-dark'})

def slug(title):
    "The anchor that Jupyter gives a heading."
    return title.strip().replace(' ', '-')

def linked(text):
    "Markdown in which names of the package, in backticks, lead to their description, and anchors are as `slug` says."
    def to_name(m):
        if m[1] in modules: return f'{{py:mod}}`{m[1]}`'
        path, call, _ = m[1].partition('(')
        *before, name = re.sub(r'^edm(_nbdev)?\.', '', path).split('.')
        if before and name not in home and before[-1] in home and before[-1][0].isupper():
            name = before.pop()                                                     # a class's method
        if name not in home or '<' in call or before and home[name] != f'edm_nbdev.{before[0]}': return m[0]
        return f'{{py:obj}}`{m[1]} <{home[name]}.{name}>`'
    def outside_code(s):
        anchors = r'(\]\(<?(?:[\w./]+\.ipynb)?#)([^)>\s]+)'
        s = re.sub(anchors, lambda m: m[1] + re.sub(r'\$[^$]*\$', '', unquote(m[2])), s)
        s = re.sub(r'(<summary>.*?</summary>)', r'\1\n\n', s).replace('</details>', '\n\n</details>')
        words = r'^#.*$|\[[^\]]*\]\([^)]*\)|`` .*? ``|`([^`\n]+)`'
        return re.sub(words, lambda m: to_name(m) if m[1] else m[0], s, flags=re.M)
    parts = re.split(r'(^```.*?^```|^~~~.*?^~~~)', text, flags=re.M | re.S)
    return ''.join(s if i % 2 else outside_code(s) for i, s in enumerate(parts))

def only_imports(code):
    "Whether a cell imports and does nothing else."
    try: body = ast.parse(code).body
    except SyntaxError: return False                                               # such as a notebook's magic
    return all(isinstance(node, (ast.Import, ast.ImportFrom)) for node in body)

def page_cell(cell, name, solution):
    """The cell as the site shows it, or None: without directives, hidden cells and live widgets. Folded code is folded,
    and so are imports, and all of a solution."""
    source = ''.join(cell['source'])
    if cell['cell_type'] == 'markdown': return cell | {'source': linked(source)}
    directives = re.findall(r'^#\s*\|\s*(.*)$', source, re.M)
    code = re.sub(r'^#\s*\|.*\n?', '', source, flags=re.M).strip('\n')
    if 'hide' in directives or not code: return None
    outputs = []
    for output in cell['outputs']:
        if 'application/vnd.jupyter.widget-view+json' in output.get('data', {}): continue
        if output['output_type'] == 'stream':
            output = output | {'text': ''.join(output['text'])}
            if outputs and outputs[-1].get('name') == output['name']:
                output['text'] = outputs.pop()['text'] + output['text']
            output['text'] = re.sub(r'[^\n]*\r(?!\n)', '', output['text'])         # a bar as it stood at the end
        outputs.append(output)
    folded = cell['metadata'].get('jupyter', {}).get('source_hidden') or 'code-fold: true' in directives
    folded = folded or only_imports(code)
    meta = {'tags': ['hide-cell' if solution else 'hide-input']} if folded else {}
    shown = [output for output in outputs if 'image/png' in output.get('data', {})]
    alts = [output['metadata'].get('image/png', {}).get('alt') for output in shown]
    if len(alts) > 1 or None in alts:
        sys.exit(f'{name}: a cell holds one picture at most, with alt text, not {alts}:\n{code}')
    if alts: meta['mystnb'] = {'image': {'alt': alts[0]}}
    return cell | {'source': code, 'outputs': outputs, 'metadata': meta}

def lessons_of_names():
    "For each name of the package, the Markdown link to the section that defines it."
    found = {}
    for path in notebooks:
        title = section = anchor = None
        for cell in json.loads(path.read_text(encoding='utf-8'))['cells']:
            source = ''.join(cell['source'])
            if cell['cell_type'] == 'markdown':
                for heading in re.findall(r'^#+ (.*)$', re.sub(r'^```.*?^```', '', source, flags=re.M | re.S), re.M):
                    title, section = title or heading, heading
            elif re.search(r'^#\s*\|\s*export', source, re.M):
                for node in ast.parse(source).body:
                    names = names_of(node)
                    anchor = slug(re.sub(r'\$[^$]*\$|[`*]', '', section))
                    page = path.relative_to(root/'nbs').as_posix()
                    link = f'[{title}](../{page})'
                    if section != title: link += f', [{section}](<../{page}#{anchor}>)'
                    found |= dict.fromkeys(names, link)
    return found

def names_of(node):
    "The names that a statement of a module defines."
    if hasattr(node, 'name'): return [node.name]
    targets = getattr(node, 'targets', None) or [getattr(node, 'target', None)]
    return [t.id for t in targets if isinstance(t, ast.Name)]

def described(node, obj, lesson, kind='function', prefix=''):
    "The Markdown of one function, class or constant: signature, docstring, a line for each parameter, its lesson."
    def plain(text): return linked(re.sub(r'(`[^`]*`)|([$*<\[{])', lambda m: m[1] or '\\' + m[2], text))
    if isinstance(node, (ast.Assign, ast.AnnAssign)):
        value = ast.unparse(node.value)
        shown = [f':value: {value}', ''] if len(value) < 80 else []
        return [f'```{{py:data}} {names_of(node)[0]}', *shown, f'Defined in {lesson}.', '```']
    signature, public, lines = '', [], [plain(inspect.cleandoc(ast.get_docstring(node) or ''))]
    if isinstance(node, ast.ClassDef):
        kind, init = 'class', next((f for f in node.body if getattr(f, 'name', '') == '__init__'), None)
        fields = [f for f in node.body if isinstance(f, ast.AnnAssign)]
        public = [f for f in node.body if isinstance(f, ast.FunctionDef) and f.name[0] != '_' and ast.get_docstring(f)]
        if init: signature = ast.unparse(init.args).removeprefix('self').lstrip(', ')
        elif fields: signature = ', '.join(ast.unparse(f).replace(' = ', '=') for f in fields)
        comments = docments(obj.__init__ if init else obj, args_kwargs=True) if init or fields else {}
    else:
        comments = docments(obj, args_kwargs=True)
        for arg in node.args.args:
            if isinstance(arg.annotation, ast.Call):                 # fastcore's Param('help', type), of a command
                comments[arg.arg], arg.annotation = arg.annotation.args[0].value, arg.annotation.args[1]
        signature = ast.unparse(node.args)
    if prefix: signature = signature.removeprefix('self').lstrip(', ')
    told = {name: text for name, text in comments.items() if text and name not in ('return', 'self')}
    lines += ['', *(f':param {name}: {plain(text)}' for name, text in told.items())]
    if comments.get('return'): lines.append(f":returns: {plain(comments['return'])}")
    if lesson: lines += ['', f'Defined in {lesson}.']
    for f in public:
        method = 'property' if any(ast.unparse(d).endswith('property') for d in f.decorator_list) else 'method'
        of_class = inspect.getattr_static(obj, f.name)
        own = next((getattr(of_class, a) for a in ('fget', 'func', '__func__') if getattr(of_class, a, None)), of_class)
        lines += ['', *described(f, own, '', method, node.name + '.')]
    fence = '`' * (3 if prefix else 4)
    called = '' if kind == 'property' else f'({signature})'
    return [f'{fence}{{py:{kind}}} {prefix}{node.name}{called}', *lines, fence, '']

def api_page(name, lessons):
    "The Markdown page of a module: all that it exports, in the order of its source."
    module, tree = modules[name], ast.parse(Path(modules[name].__file__).read_text(encoding='utf-8'))
    lines = [f'# {name.removeprefix("edm_nbdev.")}', '', f'```{{py:module}} {name}', '```', '']
    for node in tree.body:
        for own in names_of(node)[:1]:
            if own in module.__all__: lines += [*described(node, getattr(module, own), lessons[own]), '']
    return '\n'.join(lines)

def write_network_parts(folder):
    """What the page that draws needs beside its own files: the brush of the package, the shipped models of clothes, and
    ONNX Runtime. Returns how many bytes a reader loads for the first picture, or 0 where something cannot be had."""
    for part in ('models', 'ort'): (folder/part).mkdir(parents=True)
    (folder/'brush.js').write_text(Brush._esm, encoding='utf-8')
    facts, npm = {}, shutil.which('npm')
    try:
        for name in ('fashion_mnist', 'fashion_mnist_distilled'):
            model = load_model(name, 'cpu')
            export_onnx(model, folder/'models'/f'{name}.onnx', half=True)
            facts[name] = {'classes': model.data.classes, 'sigma_data': model.data.sigma_data,
                           'distilled': is_distilled(model)}
        if npm is None: raise InputError('npm, which fetches ONNX Runtime for browsers, is not installed')
        done = subprocess.run([npm, 'pack', '--loglevel=error', onnx_runtime], cwd=folder/'ort', capture_output=True,
                              text=True)
        if done.returncode: raise InputError(f'npm cannot fetch {onnx_runtime}: {done.stderr.strip()[:300]}')
    except InputError as e:
        print(f'without the page that draws: {e}')
        return 0
    (folder/'models'/'models.js').write_text(f'export const MODELS = {json.dumps(facts, indent=1)}\n', encoding='utf-8')
    packed, = (folder/'ort').iterdir()
    with tarfile.open(packed) as archive:
        for name in ('ort.wasm.min.mjs', 'ort-wasm-simd-threaded.mjs', 'ort-wasm-simd-threaded.wasm'):
            (folder/'ort'/name).write_bytes(archive.extractfile(f'package/dist/{name}').read())
    packed.unlink()
    first = folder/'models'/'fashion_mnist.onnx', *(folder/'ort').iterdir()
    return sum(path.stat().st_size for path in first)

def write_pages(folder, size):
    """Everything that Sphinx reads: the notebooks, a page for each module, the pages with programs in them, and the
    order of all. `size` is what the page that draws loads, in bytes, or 0 to leave it out."""
    (folder/'api').mkdir(parents=True)
    (folder/'workshop').mkdir()
    shutil.copytree(root/'nbs'/'images', folder/'images')                          # what the index shows of the lessons
    shutil.copy(root/'nbs'/'workshop'/'slurm.sh', folder/'workshop')               # linked from its room
    live = ['draw', 'plane'] if size else ['plane']
    for name in live:
        text = (Path(__file__).parent/'pages'/f'{name}.md').read_text(encoding='utf-8')
        (folder/f'{name}.md').write_text(text.replace('{{size}}', f'{size / 1e6:.0f}'), encoding='utf-8')
    links = {'draw': '[draw clothes](draw.md) with the models of the package',
             'plane': '[walk from noise to data](plane.md) in the plane'}
    invitation = f"Try it in your browser: {', or '.join(links[name] for name in live)}."
    defined_in = lessons_of_names()
    for path in [*notebooks, root/'nbs'/'index.ipynb']:
        notebook, cells, solution = json.loads(path.read_text(encoding='utf-8')), [], False
        for cell in notebook['cells']:
            if cell['cell_type'] == 'markdown': solution = ''.join(cell['source']).rstrip().endswith('</details>')
            cells.append(page_cell(cell, path.name, solution))
        notebook['cells'] = [cell for cell in cells if cell]
        if path.stem == 'index':
            face = next(cell for cell in notebook['cells'] if cell['cell_type'] == 'markdown')
            face['source'] = face['source'].replace('\n## ', f'\n{invitation}\n\n## ', 1)
            toc = {'In your browser': live, 'Lessons': [p.stem for p in lessons],
                   'Workshop': [f'workshop/{p.stem}' for p in workshop],
                   'Reference': [m.replace('edm_nbdev.', 'api/') for m in modules]}
            trees = '\n\n'.join('\n'.join(['```{toctree}', ':hidden:', f':caption: {caption}', *pages, '```'])
                                for caption, pages in toc.items())
            notebook['cells'].append({'cell_type': 'markdown', 'id': 'pages', 'metadata': {}, 'source': trees})
        (folder/path.relative_to(root/'nbs')).write_text(json.dumps(notebook), encoding='utf-8')
    for name in modules:
        page = folder/'api'/f'{name.removeprefix("edm_nbdev.")}.md'
        page.write_text(api_page(name, defined_in), encoding='utf-8')

def opening(path):
    "Title and first sentence of a notebook."
    text = next(''.join(cell['source']) for cell in json.loads(path.read_text(encoding='utf-8'))['cells']
                if cell['cell_type'] == 'markdown')
    title, _, rest = text.partition('\n')
    first = re.split(r'(?<=[.?!])\s', re.sub(r'\[([^\]]*)\]\([^)]*\)', r'\1', rest).strip())[0]
    return title.lstrip('# '), ' '.join(first.split())

def plain_texts():
    "The site for readers that are programs (llmstxt.org): llms.txt names its pages, api.txt all public names."
    cfg = ConfigParser(delimiters=['='])
    cfg.read(root/'settings.ini', encoding='utf-8')
    cfg = cfg['DEFAULT']
    site = cfg['doc_host'] + cfg['doc_baseurl']
    def pages(paths):
        for path in paths:
            title, first = opening(path)
            yield f"- [{title}]({site}/{path.relative_to(root/'nbs').with_suffix('.html').as_posix()}): {first}"
    parts = [f"# {cfg['title']}", f"> {cfg['description']}", f'All public names with their parameters: {site}/api.txt',
             '## Lessons', '\n'.join(pages(lessons)), '## Workshop', '\n'.join(pages(workshop))]
    names = []
    for name, module in modules.items():
        names.append(f'# {name}')
        for node in ast.parse(Path(module.__file__).read_text(encoding='utf-8')).body:
            for own in names_of(node)[:1]:
                if own not in module.__all__: continue
                call = f'({ast.unparse(node.args)})' if isinstance(node, ast.FunctionDef) else ''
                told = '' if isinstance(node, (ast.Assign, ast.AnnAssign)) else ast.get_docstring(node) or ''
                names.append(f'{own}{call}' + (f': {" ".join(told.split())}' if told else ''))
    return {'llms.txt': '\n\n'.join(parts) + '\n', 'api.txt': '\n'.join(names) + '\n'}

def finished(html, api):
    """The page with calls in its code linked to what they call, without labels that hide from a screen reader what the
    eye reads, and with the menu as a region of its own."""
    def to_call(m):
        if m[2] not in home: return m[0]
        page = home[m[2]].removeprefix('edm_nbdev.')
        return f'{m[1]}<a href="{api}{page}.html#{home[m[2]]}.{m[2]}">{m[2]}</a></span>'
    labels = r'(<summary[^>]*) aria-label="[^"]*"|(<button[^>]*search-button-field[^>]*) aria-label="[^"]*"'
    calls = (r'((?<!\.</span>)<span class="nf?">|(?<=>edm</span><span class="o">\.</span>)<span class="n">)(\w+)</span>'
             r'(?=<span class="p">\()')
    menu = '<div id="pst-primary-sidebar"'
    html = html.replace(menu, f'{menu} role="region" aria-label="Site"')
    return re.sub(calls, to_call, re.sub(labels, r'\1\2', html))

def build(out):
    "Write the site to the folder `out`; return 0, or 1 where Sphinx warned of something."
    shutil.rmtree(out, ignore_errors=True)
    with tempfile.TemporaryDirectory() as tmp:
        size = write_network_parts(Path(tmp, 'browser'))
        write_pages(Path(tmp, 'pages'), size)
        app = Sphinx(f'{tmp}/pages', None, f'{tmp}/site', f'{tmp}/doctrees', 'html', config, status=None,
                     warningiserror=True)
        app.build()
        if app.statuscode: return app.statuscode
        for page in Path(tmp, 'site').rglob('*.html'):
            api = {'api': '', 'workshop': '../api/'}.get(page.parent.name, 'api/')
            page.write_text(finished(page.read_text(encoding='utf-8'), api), encoding='utf-8')
        if size: shutil.copytree(f'{tmp}/browser', f'{tmp}/site/_static/browser', dirs_exist_ok=True)
        shutil.copytree(f'{tmp}/site', out)
    for name, text in plain_texts().items(): Path(out, name).write_text(text, encoding='utf-8')
    return 0

if __name__ == '__main__':
    failed = build(root/'_site')
    if not failed: print(f"{len(notebooks) + 1} notebooks and {len(modules)} modules: open {root/'_site'/'index.html'}")
    sys.exit(failed)
