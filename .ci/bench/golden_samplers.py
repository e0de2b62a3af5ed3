"""Where the samplers of k-diffusion and diffusers end, from fixed noise, for lesson 16 to compare with.

usage: python .ci/bench/golden_samplers.py [--out nbs/16_golden.json] [--check]

Both libraries walk from four points in the plane, with a denoiser written here (a mixture of five bells, float64), and
where a sampler draws fresh noise it gets the noise that is stored with the result. Without --check the ends, levels,
noise and versions are written to the file. With --check nothing is written: the file's ends are compared with those of
the installed libraries and of edm_nbdev, and the largest difference is printed for each walk.
Install first: pip install --no-deps k-diffusion torchdiffeq torchsde trampoline; pip install diffusers"""
from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import types
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

SETTINGS: dict[str, Any] = dict(seed=16, steps=12, points=4, sigma_min=.002, sigma_max=80., rho=7., width=.3,
                                centres=[[-1., 0.], [.5, 1.], [1., -.5], [0., .25], [-.5, -1.]])
CENTRES, WIDTH = torch.tensor(SETTINGS['centres'], dtype=torch.float64), SETTINGS['width']

def denoiser(x: Tensor, sigma: Tensor) -> Tensor:
    "E[y | x] for five bells of one width, without help of the package."
    sigma = torch.as_tensor(sigma, dtype=torch.float64).expand(len(x))[:, None]
    variance = sigma**2 + WIDTH**2                                            # (B,1)
    squares = (x[:, None] - CENTRES).square().sum(2)                          # (B,5)
    nearest = (-squares / (2 * variance)).softmax(1) @ CENTRES                # (B,2)
    return nearest + WIDTH**2 / variance * (x - nearest)

def levels() -> Tensor:
    "Levels of Karras et al. 2022, eq. 5, float64 (n+1,), the last 0."
    n, rho = SETTINGS['steps'], SETTINGS['rho']
    first, last = SETTINGS['sigma_max']**(1 / rho), SETTINGS['sigma_min']**(1 / rho)
    ramp = torch.linspace(0, 1, n, dtype=torch.float64)
    return torch.cat([(first + ramp * (last - first))**rho, torch.zeros(1, dtype=torch.float64)])

def numbers() -> tuple[Tensor, Tensor]:
    "The start (B,2) at the first level, and fresh noise for each step (n,B,2)."
    rng, n, B = np.random.default_rng(SETTINGS['seed']), SETTINGS['steps'], SETTINGS['points']
    unit = torch.from_numpy(rng.standard_normal((n + 1, B, 2)))
    return SETTINGS['sigma_max'] * unit[0], unit[1:]

def k_diffusion(name: str, sigmas: Tensor, **kw: Any) -> Tensor:
    "The end of a walk of k-diffusion. Only its module `sampling` is imported: the others want training's libraries."
    if 'k_diffusion' not in sys.modules:
        spec = importlib.util.find_spec('k_diffusion')
        if spec is None: raise ImportError("k-diffusion is not installed")
        package = types.ModuleType('k_diffusion')
        package.__path__ = list(spec.submodule_search_locations or [])
        sys.modules['k_diffusion'] = package
    sampling = importlib.import_module('k_diffusion.sampling')
    start, noise = numbers()
    fresh: Iterator[Tensor] = iter(noise)
    if kw.get('eta') is not None: kw['noise_sampler'] = lambda sigma, sigma_next: next(fresh)
    return getattr(sampling, 'sample_' + name)(denoiser, start, sigmas, disable=True, **kw)

def edm_scheduler(name: str, sigmas: Tensor, **kw: Any) -> Tensor:
    "The end of a walk of one of diffusers' schedulers for EDM, whose network's answer is made from our denoiser's."
    import diffusers
    scheduler = getattr(diffusers, name)(sigma_min=SETTINGS['sigma_min'], sigma_max=SETTINGS['sigma_max'], **kw)
    scheduler.set_timesteps(len(sigmas) - 1)
    scheduler.sigmas, scheduler.is_scale_input_called = sigmas, True
    x, data = numbers()[0], scheduler.config.sigma_data
    for sigma, t in zip(sigmas, scheduler.timesteps):
        c_skip, c_out = data**2 / (sigma**2 + data**2), sigma * data / (sigma**2 + data**2)**.5
        x = scheduler.step((denoiser(x, sigma) - c_skip * x) / c_out, t, x).prev_sample
    return x

def ipndm_scheduler(sigmas: Tensor) -> Tensor:
    """The end of a walk of diffusers' IPNDMScheduler, which is of order 4. Its images are alpha y + beta n; divided by
    alpha they are ours, with sigma = beta / alpha, and its quantity `ets` is the slope."""
    import diffusers
    scheduler = diffusers.IPNDMScheduler()
    scheduler.set_timesteps(len(sigmas) - 1)
    scheduler.alphas = 1 / (1 + sigmas**2).sqrt()
    scheduler.betas = sigmas * scheduler.alphas
    x = numbers()[0] * scheduler.alphas[0]
    for sigma, alpha, beta, t in zip(sigmas, scheduler.alphas, scheduler.betas, scheduler.timesteps):
        slope = (x / alpha - denoiser(x / alpha, sigma)) / sigma
        x = scheduler.step((slope - beta * x) / alpha, t, x).prev_sample
    return x / scheduler.alphas[-1]

Walk = tuple[str, dict[str, Any], bool, Callable[[Tensor], Tensor]]  # ours, its options, down to 0?; theirs

def walks() -> dict[str, Walk]:
    "What is compared, by the name that the other library has for it."
    def kd(name: str, **kw: Any) -> Callable[[Tensor], Tensor]: return lambda sigmas: k_diffusion(name, sigmas, **kw)
    def edm(name: str, **kw: Any) -> Callable[[Tensor], Tensor]: return lambda sigmas: edm_scheduler(name, sigmas, **kw)
    dpm, whole = 'EDMDPMSolverMultistepScheduler', dict(lower_order_final=False)
    parabola = dict(solver_order=3, solver_type='heun', **whole)
    result: dict[str, Walk] = {
        'k-diffusion euler': ('euler', {}, True, kd('euler')),
        'k-diffusion heun': ('heun', {}, True, kd('heun')),
        'k-diffusion lms, order 4': ('adams_bashforth', dict(order=4), False, kd('lms', order=4)),
        'k-diffusion dpmpp_2m': ('dpmpp_2m', {}, True, kd('dpmpp_2m')),
        'k-diffusion dpmpp_3m_sde, eta 0': ('dpmpp_3m', {}, True, kd('dpmpp_3m_sde', eta=0.)),
        'diffusers EDMEulerScheduler': ('euler', {}, True, edm('EDMEulerScheduler')),
        f'diffusers {dpm}, order 2': ('dpmpp_2m', {}, True, edm(dpm, solver_order=2, **whole)),
        f'diffusers {dpm}, order 3, heun': ('dpmpp_3m', {}, True, edm(dpm, **parabola)),
        'diffusers IPNDMScheduler': ('ipndm', dict(order=4), False, ipndm_scheduler)}
    for eta in (0., .5, 1., 1.5):
        result[f'k-diffusion euler_ancestral, eta {eta:g}'] = (
            'euler_ancestral', dict(eta=eta), True, kd('euler_ancestral', eta=eta))
        result[f'k-diffusion dpmpp_2m_sde, midpoint, eta {eta:g}'] = (
            'dpmpp_2m_sde', dict(eta=eta), True, kd('dpmpp_2m_sde', eta=eta, solver_type='midpoint'))
    for name in ('euler_ancestral', 'dpmpp_2m_sde'):  # fresh noise at the end too, and more of it
        theirs = kd(name, eta=1., s_noise=1.1)
        result[f'k-diffusion {name}, above 0'] = (name, dict(eta=1., S_noise=1.1), False, theirs)
    return result

def golden() -> dict[str, Any]:
    "What is written."
    start, noise = numbers()
    ends = {}
    for name, (method, kw, to_zero, theirs) in walks().items():
        end = theirs(levels() if to_zero else levels()[:-1])
        ends[name] = dict(method=method, options=kw, to_zero=to_zero, end=end.tolist())
    versions = {package: version(package) for package in ('k-diffusion', 'diffusers', 'torch', 'numpy')}
    return dict(settings=SETTINGS, versions=versions, levels=levels().tolist(), start=start.tolist(),
                noise=noise.tolist(), walks=ends)

def ours(walk: dict[str, Any], saved: dict[str, Any]) -> Tensor:
    "The same walk by edm_nbdev."
    import edm_nbdev.fewsteps  # noqa: F401  registers its samplers
    from edm_nbdev.samplers import sample, takes_noise
    sigmas, start = (torch.tensor(saved[key], dtype=torch.float64) for key in ('levels', 'start'))
    fresh, kw = iter(torch.tensor(saved['noise'], dtype=torch.float64)), dict(walk['options'])
    if takes_noise(walk['method']): kw['randn_like'] = lambda x: next(fresh)
    return sample(denoiser, start, sigmas if walk['to_zero'] else sigmas[:-1], walk['method'], **kw)

def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, default=Path('nbs/16_golden.json'))
    parser.add_argument('--check', action='store_true')
    args = parser.parse_args()
    if not args.check:
        args.out.write_text(json.dumps(golden(), indent=1) + '\n')
        return
    saved = json.loads(args.out.read_text())
    try: now: dict[str, Any] | None = golden()
    except ImportError as e:
        print(f"not compared with the libraries themselves: {e}")
        now = None
    worst = 0.
    for name, walk in saved['walks'].items():
        end = torch.tensor(walk['end'], dtype=torch.float64)
        off = {'edm_nbdev': (ours(walk, saved) - end).abs().max().item()}
        if now is not None:
            off['installed'] = (torch.tensor(now['walks'][name]['end'], dtype=torch.float64) - end).abs().max().item()
        print(f"{name:55s}", *(f"{who} {difference:.1e}" for who, difference in off.items()))
        worst = max(worst, *off.values())
    if worst > 1e-5: sys.exit(f"differs by {worst:.1e}")

if __name__ == '__main__': main()
