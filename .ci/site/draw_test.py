"""The two pages of the site that compute, in a browser: they draw what Python draws, the newest setting wins, knobs and
brush work by key and by mouse, and axe finds nothing, in two widths, light and dark.
usage: python .ci/site/draw_test.py [--axe axe.min.js] [--shots FOLDER]     after build.py; prints "draw: N passed\""""
import argparse
import shutil
import time
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from serve import served, site

import edm_nbdev as edm
from edm_nbdev.core import keyed_rng, to_pixels
from edm_nbdev.editing import inpainting, projected, repaint
from edm_nbdev.guidance import guide
from edm_nbdev.ode import IdealDenoiser
from edm_nbdev.samplers import karras_sigmas, keyed_noise, sample

LONG = 300_000                                    # ms: a loaded machine is slow, not wrong
WIDE, PHONE = dict(width=1280, height=900), dict(width=360, height=740)
SPY = """const Plain = Worker
window.told = []
window.Worker = class extends Plain { constructor(...given) { super(...given)
    this.addEventListener('message', ({data}) => data.step && told.push([data.id, data.step.i])) } }"""
passed = 0

def check(ok, what):
    global passed
    if not ok: raise AssertionError(what)
    passed += 1
    print(f'  ok: {what}', flush=True)

def open_page(browser, address, size, scheme='light'):
    "A page that notes what goes wrong in it; to ask anything of another machine is wrong too."
    page = browser.new_page(viewport=size, color_scheme=scheme)
    page.set_default_timeout(LONG)
    page.add_init_script(SPY)
    page.wrong = []
    page.on('console', lambda m: page.wrong.append(m.text) if m.type == 'error' else None)
    page.on('pageerror', lambda e: page.wrong.append(str(e)))
    base = address.rpartition('/')[0]
    page.on('request', lambda r: r.url.startswith((base, 'data:', 'blob:')) or page.wrong.append(f'asked {r.url}'))
    page.goto(address)
    return page

def text(page, name): return page.locator(f'#{name}').inner_text()

def done(page, name='status'):
    "Wait until a walk has ended."
    page.wait_for_function(f'/^(Done|This)/.test(document.getElementById("{name}").textContent)')
    check(text(page, name).startswith('Done'), f'{name}: {text(page, name)}')

def put(page, **values):
    "Set knobs, as a hand does: the page hears of each. The last one begins the walk that counts."
    for name, value in values.items():
        knob = page.locator(f'#{name.replace("_", "-")}')
        if knob.evaluate('e => e.tagName') == 'SELECT': knob.select_option(str(value))
        else:
            script = '(e, v) => { e.value = v; e.dispatchEvent(new Event("input", {bubbles: true})) }'
            knob.evaluate(script, str(value))

def grey(page, name):
    "What a canvas shows, int (32,32)."
    data = page.locator(f'#{name}').evaluate('e => [...e.getContext("2d").getImageData(0, 0, 32, 32).data]')
    pixels = np.array(data).reshape(32, 32, 4)
    assert (pixels[..., :1] == pixels[..., :3]).all() and (pixels[..., 3] == 255).all()
    return pixels[..., 0]

def apart(page, images, name='guess'):
    "The largest difference of canvas and picture, in grey levels."
    return int(np.abs(grey(page, name) - to_pixels(images)[0, 0].numpy().astype(int)).max())

def in_python(page):
    "The picture that the lines below the picture draw."
    names = {}
    *before, last = text(page, 'python').strip().splitlines()
    exec('\n'.join(before), names)
    return eval(last, names)

def same_pictures(page):
    "For each sampler, with and without guidance: the page draws what its lines of Python draw."
    level = {.3: 4, 2: 7, float('inf'): 12}                                 # places of the sliders
    settings = [dict(), dict(method='heun', seed=1), dict(method='euler', label=3, seed=2, steps=12),
                dict(method='dpmpp_2m', label=8, alpha=3, steps=10), dict(low=level[.3], high=level[2], seed=7),
                dict(alpha=0), dict(alpha=2, high=level[float('inf')]), dict(label=10, seed=123456, low=0),
                dict(method='stochastic_heun', label=5, alpha=1.5, churn=3, seed=4),
                dict(churn=20),                                                    # more than gamma can take
                dict(model='fashion_mnist_distilled', label=1, seed=5), dict(steps=1), dict(steps=4)]
    for setting in settings:
        put(page, **setting)
        if not setting: page.get_by_role('button', name='Draw').press('Enter')
        done(page)
        line = text(page, 'python').splitlines()[-1]
        off = apart(page, in_python(page))
        check(off <= 1, f'{off} grey levels from {line}')
    asked = torch.stack([torch.tensor(grey(page, name)) for name in ('noisy', 'guess')])
    check((asked[0] - asked[1]).abs().max() <= 1, 'at the end of the film nothing is left of the noise')
    put(page, model='fashion_mnist', label=9)
    done(page)

def newest_wins(page):
    "Two quick moves in the middle of a walk leave the last one standing, and the film can be scrubbed."
    put(page, method='heun', steps=40)
    done(page)
    page.evaluate('told.length = 0')
    seed, before = page.locator('#seed'), int(page.locator('#seed').input_value())
    seed.press('ArrowUp')
    page.wait_for_function('told.length >= 3')
    for _ in range(2): seed.press('ArrowUp')
    page.wait_for_function('told.length && told.at(-1)[1] == 39')
    done(page)
    told = page.evaluate('told')
    tasks = sorted({task for task, _ in told})
    most = [max(i for task, i in told if task == k) for k in tasks]
    check([task for task, _ in told] == sorted(task for task, _ in told) and most[-1] == 39 and max(most[:-1]) < 39,
          f'of 40 steps, the last of three walks took all, the others {[i + 1 for i in most[:-1]]}')
    check(seed.input_value() == str(before + 3) and apart(page, in_python(page)) <= 1, 'the last seed stands')
    place, noisy = page.locator('#place'), grey(page, 'noisy')
    place.press('Home')
    check(page.locator('#guess').get_attribute('aria-label').endswith('step 1, σ = 80') and
          np.abs(grey(page, 'noisy') - noisy).max() > 50, 'the film goes back to the noise at σ = 80')
    place.press('ArrowRight')
    check('step 2, ' in place.get_attribute('aria-valuetext') and len(page.evaluate('told')) == len(told),
          'a key moves on in the film, without drawing anew')
    put(page, steps=18, method='dpmpp_2m')
    done(page)

def painted(page):
    "What the brush hides, bool (32,32)."
    data = page.locator('canvas.edm-brush').evaluate('e => [...e.getContext("2d").getImageData(0, 0, 32, 32).data]')
    return torch.tensor(data).reshape(32, 32, 4)[..., :3].eq(torch.tensor([0xD5, 0x5E, 0])).all(-1)

def filled(page):
    "What Python makes of the picture below the brush."
    model, number = edm.load_model('fashion_mnist', 'cpu'), {name: int(page.locator(f'#{name}').input_value()) for name
                                                            in ('label', 'fill-seed', 'fill-steps', 'times')}
    hidden, noise = inpainting(~painted(page)), keyed_noise(number['fill-seed'], 0, 1)
    y = in_python(page)
    guided = guide(model, torch.tensor([number['label']]), float(page.locator('#alpha').input_value()))
    start = 80 * noise(torch.empty(1, 1, 32, 32))
    for step in repaint(projected(guided, hidden, hidden(y)), start, karras_sigmas(number['fill-steps']),
                        number['times'], noise): pass
    return step.x_next

def brush(page):
    "Paint by mouse and by key: the hidden part is filled as lesson 15 fills it."
    canvas, status = page.locator('canvas.edm-brush'), partial(text, page, 'fill-status')
    page.get_by_role('button', name='Fill').press('Enter')
    check('hides nothing' in status(), f'an empty mask: {status()}')
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    page.mouse.move(box['x'] + .15 * box['width'], box['y'] + .6 * box['height'])
    page.mouse.down()
    page.mouse.move(box['x'] + .9 * box['width'], box['y'] + .6 * box['height'], steps=5)
    page.mouse.up()
    done(page, 'fill-status')
    count, off = int(painted(page).sum()), apart(page, filled(page), 'filled')
    check(count > 50 and off <= 1, f'{count} pixels, painted by mouse and filled: {off} grey levels from Python')
    canvas.focus()
    for key in ('ArrowUp',) * 9 + (' ',): canvas.press(key)
    put(page, alpha=2, fill_seed=3)
    check('Draw a picture first' in status(), 'nothing is filled while a picture is drawn')
    done(page)
    put(page, fill_steps=9, times=2)
    done(page, 'fill-status')
    more, off = int(painted(page).sum()), apart(page, filled(page), 'filled')
    check(more > count and off <= 1, f'{more} pixels, painted by key and filled: {off} grey levels from Python')
    y = to_pixels(in_python(page))[0, 0].numpy().astype(int)
    kept, change = ~painted(page).numpy(), np.abs(grey(page, 'filled') - y)
    check(change[kept].max() <= 1 and change[~kept].max() > 20, 'what is seen stays; the rest is new')
    page.get_by_role('button', name='clear').click()
    check('hides nothing' in status() and not painted(page).any(), 'clear takes the mask away')

def noise(page):
    "The stream of an address, number by number, through the tail of the bell."
    script = """async () => {
        const {keyedNoise} = await import(`${location.origin}/_static/browser/noise.js`)
        const draw = await keyedNoise('picture', 3, 1)
        return [...draw(10001), ...draw(9999)] }"""
    rng = keyed_rng('picture', 3, 1)
    want = np.concatenate([rng.standard_normal(n, dtype=np.float32) for n in (10001, 9999)])
    off = np.abs(np.array(page.evaluate(script)) - want).max()
    check(off < 1e-6 and np.abs(want).max() > 3.66, f'20,000 numbers of the noise are within {off:.0e} of NumPy')

def plane(page):
    "The exact denoiser and each sampler in JavaScript arrive where those of lessons 02 and 03 do."
    script = """async ([method, left, seed]) => {
        const from = name => import(`${location.origin}/_static/browser/${name}.js`)
        const {SHAPES, mixture, spoilt} = await from('mixture'), {METHODS, karrasSigmas} = await from('samplers')
        const noise = await (await from('noise')).keyedNoise('plane', seed), randn = n => Float64Array.from(noise(n))
        const points = SHAPES.spiral, D = spoilt(mixture(points, .06), left), x = randn(40).map(v => 80 * v)
        for await (var step of METHODS[method](D, x, karrasSigmas(12, .002, 80, 5), {churn: 3, randn})) ;
        return [points, [...step.xNext]] }"""
    for method in ('euler', 'heun', 'dpmpp_2m', 'stochastic_heun'):
        points, ends = page.evaluate(script, [method, .1, 3])
        exact, rng = IdealDenoiser(torch.tensor(points, dtype=torch.float64), width=.06), keyed_rng('plane', 3)
        def randn_like(x, rng=rng): return torch.from_numpy(rng.standard_normal((20, 2), dtype=np.float32)).double()
        def D(x, sigma, exact=exact): return .9 * exact(x, sigma) + .1 * x
        own = dict(S_churn=3, randn_like=randn_like) if method == 'stochastic_heun' else {}
        want = sample(D, 80 * randn_like(None), karras_sigmas(12, rho=5), method, **own)
        off = (torch.tensor(ends).reshape(20, 2) - want).abs().max().item()
        check(off < 1e-6, f'{method} in the plane ends {off:.0e} from lesson 03')
    start, picture = text(page, 'status'), page.locator('#plane')
    check('23 calls' in start and 'step' not in picture.get_attribute('aria-label'), f'the plane: {start}')
    before = picture.evaluate('e => e.toDataURL()')
    page.locator('#steps').press('ArrowRight')
    page.wait_for_function('document.getElementById("status").textContent.startsWith("25 calls")')
    check(picture.evaluate('e => e.toDataURL()') != before, 'a key adds a step: 25 calls, another picture')
    page.locator('#place').press('Home')
    check('step 0, σ = 80' in picture.get_attribute('aria-label'), 'a key goes back to σ = 80')
    for shown in ('slope', 'nothing', 'density'): put(page, shown=shown)
    for shape in ('two points', 'spiral'): put(page, shape=shape)
    put(page, method='stochastic_heun', left=.1, steps=48, churn=.15, place=48)
    page.wait_for_function('document.getElementById("status").textContent.startsWith("95 calls")')

def fits(page, name):
    "Nothing reaches over the edge, and nothing went wrong."
    over = page.evaluate('''[...document.querySelectorAll(".tool canvas, .tool input, .tool select, .tool button")]
        .filter(e => e.getBoundingClientRect().right > innerWidth || e.getBoundingClientRect().left < 0).length''')
    check(over == 0 and page.evaluate('document.documentElement.scrollWidth <= innerWidth'), f'{name}: everything fits')
    check(page.wrong == [], f'{name}: no error, and nothing asked of other machines {page.wrong}')

def no_findings(page, axe, name):
    if not axe: return
    page.evaluate(axe.read_text(encoding='utf-8'))
    found = page.evaluate("axe.run({resultTypes: ['violations'], preload: false})")['violations']
    told = [f"{f['id']} at {f['nodes'][0]['target']}: {f['help']}" for f in found]
    check(not told, f'{name}: axe finds nothing {told}')

def first_picture(browser, address):
    "How long it takes from pressing to the picture: at once, and once everything is loaded."
    page = open_page(browser, address, WIDE)
    def press():
        begin = time.time()
        page.get_by_role('button', name='Draw').press('Enter')
        page.wait_for_function('document.getElementById("status").textContent.startsWith("Done")', polling=20)
        return time.time() - begin
    at_once = press()
    page.reload()
    page.wait_for_function('document.getElementById("status").textContent.startsWith("Ready")')
    print(f'  the first picture: {at_once:.1f} s after pressing, {press():.1f} s once the page says that it is ready')
    page.close()

def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument('--axe', type=Path, help="axe.min.js of npm's axe-core")
    options.add_argument('--shots', type=Path, help='where to keep screenshots')
    given = options.parse_args()
    chromium = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
    if not (find_spec('playwright') and chromium): return print('draw: skipped, it needs playwright and a Chromium')
    from playwright.sync_api import sync_playwright
    pages = {'draw': [same_pictures, newest_wins, brush], 'plane': [noise, plane]}
    if not (site/'draw.html').is_file():
        print('draw: draw.html was not built')
        del pages['draw']
    with sync_playwright() as p, served() as base:
        flags = ['--no-sandbox', '--disable-gpu', '--disable-background-networking']
        browser = p.chromium.launch(executable_path=chromium, args=flags)
        if 'draw' in pages: first_picture(browser, f'{base}/draw.html')
        for name, tests in pages.items():
            for size in (WIDE, PHONE):
                for scheme in ('light', 'dark'):
                    where = f"{name} {size['width']} {scheme}"
                    page = open_page(browser, f'{base}/{name}.html', size, scheme)
                    if (size, scheme) == (WIDE, 'light'):
                        for test in tests: test(page)
                    elif name == 'draw':
                        page.get_by_role('button', name='Draw').press('Enter')
                        done(page)
                    page.wait_for_function('/calls/.test(document.getElementById("status").textContent)')
                    fits(page, where)
                    no_findings(page, given.axe, where)
                    if given.shots: page.screenshot(path=given.shots/f'{where}.png'.replace(' ', '_'), full_page=True)
                    page.close()
        browser.close()
    print(f'draw: {passed} passed')

if __name__ == '__main__': main()
