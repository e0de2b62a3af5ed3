"""Look at every page of _site/ in a browser, at two widths: requests that leave it, errors, formulas, links, alt text,
what is too wide, and axe.
usage: python .ci/site/check.py [axe.min.js]
needs: pip install playwright, a Chromium, and axe-core from npm (left out if not given)"""
import shutil
import sys
from pathlib import Path
from urllib.parse import unquote, urldefrag

from playwright.sync_api import sync_playwright
from serve import served, site

axe = Path(sys.argv[1]) if sys.argv[1:] else None
pages = [page for folder in ('', 'workshop/', 'api/') for page in sorted(site.glob(f'{folder}*.html'))]
look = """() => ({links: [...document.querySelectorAll('a[href]')].map(a => a.href),
    ids: [...document.querySelectorAll('[id]')].map(e => e.id),
    alts: [...document.querySelectorAll('img')].filter(i => !i.alt.trim()).map(i => i.src),
    broken: [...document.querySelectorAll('img')].filter(i => !i.naturalWidth && i.loading != 'lazy').map(i => i.src),
    raw: [...document.querySelectorAll('.math')].filter(m => !m.querySelector('mjx-container') ||
        m.querySelector('[data-mml-node=merror], [data-mjx-error], [fill=red]')).map(m => m.innerText),
    tex: [...document.querySelectorAll('article p, article li, article td')].map(e => { e = e.cloneNode(true);
        e.querySelectorAll('code, .math').forEach(c => c.remove());
        return e.textContent }).filter(t => /\\$\\$|\\\\[a-z]+[{_^ ]|\\]\\(|\\*\\*/.test(t)),
    wide: document.documentElement.scrollWidth - innerWidth})"""
bad, ids, links = [], {}, []
with sync_playwright() as p, served() as base:
    flags = ['--no-sandbox', '--disable-gpu', '--disable-background-networking']
    browser = p.chromium.launch(executable_path=shutil.which('chromium'), args=flags)
    for width in (1280, 390):
        for path in pages:
            tab = browser.new_page(viewport={'width': width, 'height': 900})
            tab.set_default_timeout(300_000)                        # ms: a loaded machine is slow, not wrong
            address = f'{base}/{path.relative_to(site).as_posix()}'
            name, own = f'{path.relative_to(site)} at {width}', (base, 'data:', 'blob:')
            tab.on('request', lambda r: r.url.startswith(own) or bad.append(f'{name}: asks for {r.url}'))
            tab.on('console', lambda m: m.type in ('error', 'warning') and bad.append(f'{name}: {m.text}'))
            tab.on('pageerror', lambda e: bad.append(f'{name}: {e}'))
            tab.goto(address)
            tab.evaluate('window.MathJax && MathJax.startup.promise.then(() => 1)')
            seen = tab.evaluate(look)
            ids[address] = set(seen['ids'])
            links += [(name, link) for link in seen['links']]
            faults = {'no alt text': 'alts', 'no picture': 'broken', 'no formula': 'raw', 'not rendered': 'tex'}
            bad += [f'{name}: {what}: {item}' for what, key in faults.items() for item in seen[key]]
            if seen['wide'] > 0: bad.append(f"{name}: {seen['wide']} pixels wider than the window")
            if axe:
                tab.evaluate(axe.read_text(encoding='utf-8'))
                for found in tab.evaluate("axe.run({resultTypes: ['violations'], preload: false})")['violations']:
                    if found['impact'] not in ('serious', 'critical'): continue
                    where = f"{found['id']} at {len(found['nodes'])}: {found['nodes'][0]['target']}"
                    bad.append(f"{name}: axe, {found['impact']}, {where} {found['help']}")
            if width < 500:
                tab.locator('.primary-toggle:visible').click()
                if not tab.locator('.bd-links a:visible').count(): bad.append(f'{name}: the menu does not open')
            tab.close()
    browser.close()
for name, link in links:
    page, anchor = urldefrag(link)
    file = page not in ids and (site/unquote(page.removeprefix(f'{base}/'))).is_file()  # to download
    if page.startswith(base) and not file and (page not in ids or anchor and unquote(anchor) not in ids[page]):
        bad.append(f'{name}: leads nowhere: {link}')
print(*bad, f"{len(pages)} pages at two widths, {'with' if axe else 'without'} axe: {len(bad)} findings", sep='\n')
sys.exit(bool(bad))
