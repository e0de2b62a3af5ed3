"Make README.md from nbs/index.ipynb, its pictures in nbs/images. usage: python .ci/readme.py (standard library only)"
import base64, json, re
from pathlib import Path

root = Path(__file__).resolve().parent.parent
images = root/'nbs'/'images'
images.mkdir(exist_ok=True)
parts = ['<!-- Made from nbs/index.ipynb by .ci/readme.py: edit the notebook. -->']
for cell in json.loads((root/'nbs'/'index.ipynb').read_text(encoding='utf-8'))['cells']:
    source = ''.join(cell['source']).strip()
    if cell['cell_type'] == 'markdown': parts.append(re.sub(r'\]\((\w+\.ipynb)', r'](nbs/\1', source))   # links as seen from the top
    if cell['cell_type'] != 'code' or re.match(r'#\s*\|\s*hide', source): continue
    parts.append(f'```python\n{source}\n```')
    for output in cell['outputs']:
        png, alt = (output.get(key, {}).get('image/png') for key in ('data', 'metadata'))
        if not png: continue
        name = f"index_{sum('](nbs/images/' in p for p in parts)}.png"
        (images/name).write_bytes(base64.b64decode(''.join(png)))
        parts.append(f"![{alt['alt']}](nbs/images/{name})")
(root/'README.md').write_text('\n\n'.join(parts) + '\n', encoding='utf-8')
