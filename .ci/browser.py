"""The playground in a real browser: Voilà (through edm_playground) and JupyterLab, in a wide and in a narrow window.
usage: python .ci/browser.py [--shots FOLDER]     prints "browser: N passed", or why it was skipped"""
import argparse
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from urllib.request import urlopen

LONG = 300_000                                    # ms: a loaded machine is slow, not wrong
WIDE, PHONE = dict(width=1280, height=900), dict(width=390, height=844)
passed = 0

def check(ok, what):
    global passed
    if not ok: raise AssertionError(what)
    passed += 1
    print(f'  ok: {what}', flush=True)

def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]

@contextmanager
def serving(command, url, **kw):
    "Start a server, wait until it answers, and end it."
    with tempfile.TemporaryFile('w+') as log:
        server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, **kw)
        try:
            end = time.time() + LONG / 1000
            while True:
                try:
                    urlopen(url, timeout=LONG / 1000).close()
                    break
                except OSError:
                    if server.poll() is not None or time.time() > end: raise
                    time.sleep(.2)
            yield
        except BaseException:
            log.seek(0)
            print(log.read()[-3000:], file=sys.stderr)
            raise
        finally:
            server.terminate()
            try: server.wait(30)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()

def open_page(browser, size):
    "A page that notes what goes wrong in it; to ask anything of another machine is wrong too."
    page = browser.new_page(viewport=size)
    page.set_default_timeout(LONG)
    page.wrong = []
    page.on('console', lambda m: page.wrong.append(m.text) if m.type == 'error' else None)
    page.on('pageerror', lambda e: page.wrong.append(str(e)))
    def note_foreign(asked):
        own = r'(https?|wss?)://127\.0\.0\.1[:/]|data:|blob:'
        if not re.match(own, asked.url): page.wrong.append(f'asked {asked.url}')
    page.on('request', note_foreign)
    page.on('websocket', note_foreign)
    return page

def labels(page): return page.locator('figcaption').all_inner_texts()
def wait_label(page, k, start):
    "Wait until the label of picture `k` begins with `start`; its text."
    begins = '([k, start]) => document.querySelectorAll("figcaption")[k]?.innerText.startsWith(start)'
    page.wait_for_function(begins, arg=[k, start])
    return labels(page)[k]
def handle(page, text):
    "The handle of the slider that is labelled `text`."
    box = page.locator('.widget-inline-hbox', has=page.get_by_text(text, exact=True))
    return box.first.locator('.noUi-handle').first

def play(page, name):
    "Turn knobs by key, and see that pictures and labels follow."
    page.wait_for_function('document.querySelectorAll("figure img").length == 6')
    check(wait_label(page, 0, 'σ = 0.80'), f'{name}: six pictures')
    def source(): return page.locator('figure img').first.get_attribute('src')
    before = source()
    handle(page, 'σ, noise level').press('ArrowRight')
    page.wait_for_function('!document.querySelectorAll("figcaption")[0].innerText.startsWith("σ = 0.80")')
    label, alt = labels(page)[0], page.locator('figure img').first.get_attribute('alt')
    check(label.startswith('σ = 0.') and source() != before and alt == label,
          f'{name}: a key moves σ; picture, alt text and label follow')

    def state(text): return (m := re.search(r'seed (\d+): (\d+) of (\d+) steps', text)) and [*map(int, m.groups())]
    page.evaluate('''() => { window.seen = [];
        new MutationObserver(() => { const now = document.querySelectorAll("figcaption")[3]?.innerText;
                                     if (now && now != seen.at(-1)) seen.push(now) })
        .observe(document.body, {childList: true, subtree: true, characterData: true}) }''')
    seed = handle(page, 'seed')
    seed.press('ArrowRight')
    page.wait_for_function('document.querySelectorAll("figcaption")[3].innerText.includes("seed 1:")')
    for _ in range(2): seed.press('ArrowRight')                             # two quick moves, in the middle of the work
    page.wait_for_function('document.querySelectorAll("figcaption")[3].innerText.includes("seed 3: 216 of 216")')
    seen = [state(text) for text in page.evaluate('seen')]
    order = [k for k, _, _ in seen]
    most = {k: max(done for j, done, _ in seen if j == k) for k in set(order)}
    check(order == sorted(order) and order[-1] == 3, f'{name}: two quick moves leave the last one standing')
    check(most[1] < 216 and most.get(2, 0) < 216,
          f'{name}: the old work stopped (of 216 steps, seed 1 did {most[1]}, seed 2 {most.get(2, 0)})')
    check(len([k for k in order if k == 3]) >= 12, f'{name}: the grid appeared bit by bit')

    handle(page, 'place in the film').press('Home')
    page.wait_for_function('document.querySelectorAll("figcaption")[3].innerText.includes("Step 1 of 18")')
    check('216 of 216' in labels(page)[3], f'{name}: the film is scrubbed without drawing anew')
    broken = page.evaluate('[...document.querySelectorAll("figure img")].filter(i => !i.naturalWidth || !i.alt).length')
    check(broken == 0, f'{name}: every picture is there, with alt text')
    check(page.wrong == [], f'{name}: nothing asked of other machines, no error on the page or in the console '
                            f'{page.wrong}')

def brush(page, name):
    "Paint by mouse and by key, erase and clear: the mask and the picture follow, and the newest stroke wins."
    canvas, label = page.locator('canvas.edm-brush'), 'document.querySelectorAll("figcaption")[5]?.innerText'
    def count(): return int(page.locator('output').inner_text().split('; ')[-1].split()[0])
    def shares():
        page.wait_for_function(f'{label}?.includes("12 of 12 steps")')
        text = labels(page)[5]
        check(page.locator('figure img').nth(5).get_attribute('alt') == text, f'{name}: the brush: alt text is label')
        return int(re.search(r'(\d+)% of the picture is hidden', text)[1])
    def stroke(start, end, **kw):
        box = canvas.bounding_box()
        def at(place): return box['x'] + place[0] * box['width'], box['y'] + place[1] * box['height']
        page.mouse.move(*at(start))
        page.mouse.down(**kw)
        page.mouse.move(*at(end), steps=4)
        page.mouse.up(**kw)
    canvas.scroll_into_view_if_needed()
    check('Arrow keys' in canvas.get_attribute('aria-label') and count() == 512 and shares() == 50,
          f'{name}: the brush shows a picture whose lower half is hidden')
    classes = page.locator('.widget-inline-hbox', has=page.get_by_text('class', exact=True)).last.locator('select')
    shown = (classes.evaluate('list => list.selectedOptions[0]?.text') or '').replace('\xa0', ' ')
    check(shown == 'no class' and 'no class, α = 1, ' in labels(page)[5],
          f'{name}: the class list of the brush shows "{shown}", and the label says {labels(page)[5]}')
    page.get_by_role('button', name='clear').click()
    page.wait_for_function('[...document.querySelectorAll("[role=alert]")].some(e => e.innerText == '
                           '"the mask hides nothing: there is nothing to fill in")')
    check(count() == 0, f'{name}: a brush that hides nothing is told so in one line')
    stroke((.2, .3), (.8, .3))
    first = count()
    page.wait_for_function(f'{label}?.includes("of 12 steps")')
    stroke((.2, .7), (.8, .7))
    both = count()
    check(0 < first < both, f'{name}: two strokes hide {first}, then {both} pixels')
    want = f'{round(100 * both / 1024)}% of'
    page.wait_for_function(f'{label}?.includes("{want}")')
    check(abs(shares() - 100 * both / 1024) <= .5, f'{name}: the second stroke wins while the first is drawn')
    stroke((.2, .3), (.8, .3), button='right')
    check(count() == both - first, f'{name}: the second button erases')
    page.get_by_role('checkbox', name='erase').check()
    stroke((.2, .7), (.5, .7))
    less = count()
    check(0 < less < both - first, f'{name}: the box erases')
    page.get_by_role('checkbox', name='erase').uncheck()
    canvas.focus()
    for key in ('ArrowUp',) * 9 + (' ',): canvas.press(key)
    more = count()
    check(more > less and page.locator('output').inner_text().startswith('row '), f'{name}: space paints ({more})')
    canvas.press('Shift+ ')
    canvas.press('ArrowDown')
    check(count() < more, f'{name}: shift and space erase')
    canvas.press(' ')
    canvas.press('e')
    left = count()
    want = f'{round(100 * left / 1024)}% of'
    page.wait_for_function(f'{label}?.includes("{want}")')
    check(abs(shares() - 100 * left / 1024) <= .5, f'{name}: the picture follows the keys')
    check(page.wrong == [], f'{name}: nothing wrong after brushing {page.wrong}')

def fits(page, name):
    "At phone width nothing reaches over the edge."
    page.wait_for_function('document.querySelectorAll("figure img").length == 6')
    over = page.evaluate('''[...document.querySelectorAll("figure img, .widget-inline-hbox, canvas.edm-brush")]
        .filter(e => e.getBoundingClientRect().right > innerWidth + 1 || e.getBoundingClientRect().left < -1).length''')
    wide = page.evaluate('document.documentElement.scrollWidth - innerWidth')
    check(over == 0 and wide <= 0, f'{name}: all pictures and knobs fit a width of {PHONE["width"]}')
    check(page.wrong == [], f'{name}: nothing wrong at phone width {page.wrong}')

def shot(page, shots, name):
    if not shots: return
    page.set_viewport_size({**page.viewport_size, 'height': 6000})
    page.screenshot(path=shots/f'{name}.png')

def in_voila(browser, shots):
    port = free_port()
    start = [sys.executable, '-c', 'import runpy, sys; sys.argv[0] = "edm_playground"; '
                                   'runpy.run_path(sys.argv.pop(1), run_name="__main__")']
    with tempfile.TemporaryDirectory() as work:
        script = Path(work)/'edm_playground'                  # what the installation makes of the console script
        script.write_text('from edm_nbdev.app import edm_playground\nedm_playground()\n')
        command = [*start, str(script), '--port', str(port), '--no_browser']
        with serving(command, f'http://127.0.0.1:{port}/voila/static/voila.js'):
            second = subprocess.run(command, capture_output=True, text=True)
            check(second.returncode == 2 and second.stderr.count('\n') == 1 and f'--port {port + 1}' in second.stderr,
                  f'edm_playground: a taken port: {second.stderr.strip()}')
            page = open_page(browser, WIDE)
            begin = time.time()
            page.goto(f'http://127.0.0.1:{port}/')
            done = 'document.querySelectorAll("figcaption")[3]?.innerText.match(/: (\\d+) of 216/)?.[1]'
            page.wait_for_function(f'+{done} >= 18')
            print(f'  the page came, and its first generated picture, after {time.time() - begin:.1f} s')
            play(page, 'Voilà')
            brush(page, 'Voilà')
            shot(page, shots, 'voila_wide')
            page.close()
            page = open_page(browser, PHONE)
            page.goto(f'http://127.0.0.1:{port}/')
            fits(page, 'Voilà')
            shot(page, shots, 'voila_phone')
            page.close()

def in_lab(browser, shots):
    from edm_nbdev.app import NOT_IN_APP, find_notebook
    port = free_port()
    with tempfile.TemporaryDirectory() as work:
        settings = Path(work)/'settings'/'@jupyterlab'
        for extension in ('notebook-extension', 'apputils-extension'): (settings/extension).mkdir(parents=True)
        tracker = settings/'notebook-extension'/'tracker.jupyterlab-settings'
        tracker.write_text('{"windowingMode": "none"}')                                   # all outputs in the page
        news = settings/'apputils-extension'/'notification.jupyterlab-settings'
        news.write_text('{"fetchNews": "false", "checkForUpdates": false}')
        nb = json.loads(find_notebook().read_text(encoding='utf-8'))
        nb['cells'] = [c for c in nb['cells'] if not re.match(NOT_IN_APP, ''.join(c['source']))]   # without tests
        for c in nb['cells']:
            if c['cell_type'] == 'code': c['outputs'] = []
        (Path(work)/'nbs').mkdir()
        shutil.copy(find_notebook().with_name('15_clothes.png'), Path(work)/'nbs')
        (Path(work)/'nbs'/'playground.ipynb').write_text(json.dumps(nb), encoding='utf-8')
        command = [sys.executable, '-m', 'jupyterlab', '--no-browser', '--allow-root', '--ip=127.0.0.1',
                   f'--port={port}', '--ServerApp.port_retries=0', '--IdentityProvider.token=',
                   f'--ServerApp.root_dir={work}/nbs', '--LabApp.expose_app_in_browser=True']
        env = {**os.environ, 'JUPYTERLAB_SETTINGS_DIR': str(settings.parent),
               'JUPYTERLAB_WORKSPACES_DIR': f'{work}/workspaces'}
        with serving(command, f'http://127.0.0.1:{port}/api', env=env):
            page = open_page(browser, WIDE)
            page.goto(f'http://127.0.0.1:{port}/lab/tree/playground.ipynb')
            page.wait_for_selector('.jp-Notebook .jp-Cell')
            session = 'window.jupyterapp?.shell.currentWidget?.sessionContext?.session'
            page.wait_for_function(f'{session}?.kernel?.status == "idle"')
            run_all = 'jupyterapp.commands.execute("notebook:run-all-cells")'
            page.evaluate(f'async () => {{ await jupyterapp.started; {run_all} }}')
            play(page, 'JupyterLab')
            brush(page, 'JupyterLab')
            shot(page, shots, 'lab_wide')
            page.close()

def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument('--shots', type=Path, help='where to keep screenshots')
    shots = options.parse_args().shots
    if shots: shots.mkdir(parents=True, exist_ok=True)
    if not find_spec('playwright'):
        return print("browser: skipped, playwright is not installed (pip install -e '.[dev,app]')")
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p:
        names = ('chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable')
        found = next(filter(None, map(shutil.which, names)), None)
        if not found and Path(p.chromium.executable_path).is_file(): found = p.chromium.executable_path
        if not found:
            return print('browser: skipped, no Chromium found (apt install chromium, or playwright install chromium)')
        flags = ['--no-sandbox', '--disable-gpu', '--disable-background-networking']
        browser = p.chromium.launch(executable_path=found, args=flags)
        for package, run in dict(voila=in_voila, jupyterlab=in_lab).items():
            if find_spec(package): run(browser, shots)
            else: print(f"browser: {package} skipped, it is not installed (pip install -e '.[dev,app]')")
        browser.close()
    print(f'browser: {passed} passed')

if __name__ == '__main__': main()
