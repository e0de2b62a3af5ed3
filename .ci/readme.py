"""Make README.md from nbs/index.ipynb. nbs/images holds the pictures of the index, and those of lessons that it shows:
images/02_ode-3.png is number 3 of 02_ode. usage: python .ci/readme.py (standard library only)"""
import base64
import json
import re
from pathlib import Path

root = Path(__file__).resolve().parent.parent
images = root/'nbs'/'images'
images.mkdir(exist_ok=True)

def cells(name):
    "The cells of a lesson or a workshop notebook."
    places = (root/'nbs'/f'{name}.ipynb', root/'nbs'/'workshop'/f'{name}.ipynb')
    found = next(place for place in places if place.is_file())
    return json.loads(found.read_text(encoding='utf-8'))['cells']

def pictures(cell):
    "PNG and alt text of each picture that the cell shows."
    for output in cell.get('outputs', ()):
        png, alt = (output.get(key, {}).get('image/png') for key in ('data', 'metadata'))
        if png: yield base64.b64decode(''.join(png)), (alt or {}).get('alt')

parts = ['<!-- Made from nbs/index.ipynb by .ci/readme.py: edit the notebook. -->']
for cell in cells('index'):
    source = ''.join(cell['source']).strip()
    if cell['cell_type'] == 'markdown':                                          # links as seen from the top
        parts.append(re.sub(r'(\]\(|src=")((?:workshop/)?\w+\.ipynb|images/)', r'\1nbs/\2', source))
    if cell['cell_type'] != 'code' or re.match(r'#\s*\|\s*hide', source): continue
    parts.append(f'```python\n{source}\n```')
    for png, alt in pictures(cell):
        name = f"index_{sum('](nbs/images/' in p for p in parts)}.png"
        (images/name).write_bytes(png)
        parts.append(f"![{alt}](nbs/images/{name})")
text = '\n\n'.join(parts) + '\n'
shown = set()
for name, number in re.findall(r'"nbs/images/(\w+)-(\d+)\.png"', text):
    (images/f'{name}-{number}.png').write_bytes([png for cell in cells(name) for png, _ in pictures(cell)][int(number)])
    shown.add(f'{name}-{number}.png')
for old in images.glob('*.png'):
    if old.name not in shown and not old.name.startswith('index_'): old.unlink()     # the index no longer shows it
(root/'README.md').write_text(text, encoding='utf-8')
