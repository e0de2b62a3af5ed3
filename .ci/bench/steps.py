"""A training step and sampling of the same network, as peers write them and as this package does them, in turn.

usage: python .ci/bench/steps.py [--presets fashion_mnist_cpu,digits,cifar10] [--rounds 5] [--seconds 10] [--quick]
                                 [--out FILE.json]

plain  float32, PyTorch's default memory format, eager, all threads as PyTorch sets them, no settings of the allocator;
       the loss of lesson 05, PyTorch's Adam, one average of the weights, no clipping, no augmentation (`plain.py`)
ours   what `train` and `generate` do after the commands' settings, in float32, and in bf16 where the CPU multiplies it;
       with clipping, three averages, and the preset's augmentation
roof   the rate of a large product of matrices, in float32 and in bf16, measured in the same turns

Pixels are random, except for digits: speed does not depend on them. cifar10 is measured with a quarter of its batch, so
that a laptop's memory is enough. Shares are those of the roof of the same number format that a rate times the network's
operations reaches. Run it on a machine that does nothing else."""
from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from measure import (
    Worker,
    cpu_kinds,
    flops_an_image,
    in_turn,
    machine,
    matrix_peak,
    open_channel,
    parameters,
    repeat,
    serve,
    summary,
    table,
    write,
)

BATCH = {'cifar10': 64}  # where the preset's batch is too large for a laptop

def config_of(task: dict[str, Any]) -> Any:
    "The config to measure: a preset without an end, and kept nowhere."
    from edm_nbdev.config import PRESETS
    config = PRESETS[task['preset']]
    batch_size = task.get('batch_size') or BATCH.get(task['preset'], config.batch_size)
    return replace(config, precision=task.get('precision', 'float32'), batch_size=batch_size, device='cpu',
                   images=10**12, run=None)

def images_of(config: Any) -> Any:
    "Digits, or random pixels in the shape of the preset's pictures."
    from edm_nbdev.data import images_from, load_data
    if config.data == 'digits': return load_data('digits')
    rng = np.random.default_rng(0)
    channels = 1 if config.data == 'fashion_mnist' else 3
    pixels = rng.integers(0, 256, (2000, channels, 32, 32), dtype=np.uint8)
    return images_from(pixels, rng.integers(0, 10, 2000), [str(i) for i in range(10)], config.data)

def plain_denoiser(config: Any, data: Any) -> Any:
    "The preset's network as peers compute it."
    from plain import Plain, check_same

    from edm_nbdev.models import make_denoiser
    denoiser: Any = make_denoiser(config, data)
    plain = Plain(denoiser.net, config.dropout)
    check_same(plain, denoiser.net)
    denoiser.net = plain
    return denoiser

def plain_training(config: Any, data: Any, denoiser: Any) -> Iterator[None]:
    "Training as peers write it: each `next` is a step."
    from copy import deepcopy

    from edm_nbdev.precond import edm_loss
    P_mean = -1.2 if config.P_mean is None else config.P_mean
    optimizer = torch.optim.Adam(denoiser.parameters(), lr=config.lr, betas=(.9, config.beta2))
    ema = deepcopy(denoiser).eval().requires_grad_(False)
    denoiser.train()
    while True:
        y, label = data.batch(torch.randint(len(data), (config.batch_size,)))
        label = label.masked_fill(torch.rand(len(label)) < config.label_drop, len(data.classes))
        loss = edm_loss(denoiser, y, label, P_mean=P_mean, P_std=config.P_std)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for averaged, present in zip(ema.parameters(), denoiser.parameters(), strict=True):
                averaged.lerp_(present, .001)
        yield

def plain_drawing(task: dict[str, Any], data: Any, denoiser: Any) -> Callable[[], Any]:
    "Sampling as peers write it: Heun's method on the whole batch."
    from edm_nbdev.samplers import karras_sigmas, sample
    n, sigmas = task['n'], karras_sigmas(task['sampler_steps'])
    label = torch.arange(n) % len(data.classes)
    def draw() -> Any:
        with torch.no_grad():
            x = torch.randn(n, *data.shape) * float(sigmas[0])
            for step in sample(lambda x, sigma: denoiser(x, sigma, label), x, sigmas, 'heun'): last = step
        return last
    return draw

def ours_drawing(task: dict[str, Any], config: Any, data: Any) -> Callable[[], Any]:
    "Sampling as `generate` does it."
    from edm_nbdev.generation import generate
    from edm_nbdev.models import make_denoiser
    model = make_denoiser(config, data).eval().requires_grad_(False)
    label = torch.arange(task['n']) % len(data.classes)
    return lambda: generate(model, task['n'], label, steps=task['sampler_steps'], precision=config.precision)

def work(task: dict[str, Any]) -> None:
    "A worker: what it measures is in its task."
    channel = open_channel()
    if task['kind'] == 'roof':
        dtype = {'float32': torch.float32, 'bf16': torch.bfloat16}[task['precision']]
        def peak(seconds: float) -> float: return matrix_peak('cpu', dtype, task['size'], seconds)
        return serve(channel, {}, {'train': peak, 'sample': peak})
    if task['kind'] == 'ours':
        from edm_nbdev.devices import tune_memory
        tune_memory()
    config = config_of(task)
    data = images_of(config)
    if task['kind'] == 'plain':
        denoiser = plain_denoiser(config, data)
        training: Iterator[Any] = plain_training(config, data, denoiser)
        draw = plain_drawing(task, data, plain_denoiser(config, data).eval())
    else:
        from edm_nbdev.loop import train
        training, draw = train(config, data), ours_drawing(task, config, data)
    for _ in range(2): next(training)
    draw()
    about = {'threads': torch.get_num_threads(), 'batch_size': config.batch_size}
    serve(channel, about, {'train': lambda seconds: repeat(lambda: next(training), config.batch_size, seconds),
                           'sample': lambda seconds: repeat(draw, task['n'], seconds)})

def network(preset: str) -> dict[str, Any]:
    "Parameters and operations of a preset's network."
    from edm_nbdev.models import make_denoiser
    config = config_of({'preset': preset})
    data = images_of(config)
    with torch.device('meta'): denoiser = make_denoiser(config, data)
    return {'parameters': parameters(denoiser), **flops_an_image(denoiser, data.shape)}

def tasks(preset: str, options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    "What is measured for a preset, by name; plain comes first."
    base = {'preset': preset, 'n': options.n, 'sampler_steps': options.sampler_steps, 'batch_size': options.batch_size}
    precisions = ['float32'] + ['bf16'] * bool({'AMX', 'AVX512-BF16'} & set(cpu_kinds()))
    found: dict[str, dict[str, Any]] = {'plain float32': {**base, 'kind': 'plain', 'precision': 'float32'}}
    for p in precisions: found[f'ours {p}'] = {**base, 'kind': 'ours', 'precision': p}
    for p in precisions: found[f'roof {p}'] = {'kind': 'roof', 'precision': p, 'size': 512 if options.quick else 2048}
    return found

def measure(preset: str, options: argparse.Namespace) -> dict[str, Any]:
    "All rates of a preset."
    found: dict[str, Any] = {'network': network(preset)}
    workers = {}
    try:
        for name, task in tasks(preset, options).items(): workers[name] = Worker(__file__, task)
        found['about'] = {name: worker.about for name, worker in workers.items()}
        for what, flops in (('train', found['network']['step']), ('sample', found['network']['forward'])):
            calls = 1 if what == 'train' else 2 * options.sampler_steps - 1
            rates = in_turn(workers, what, options.rounds, options.seconds)
            found[what] = {name: summary(values) for name, values in rates.items()}
            for name, row in found[what].items():
                kind, precision = name.split()
                if kind == 'roof': continue
                pairs = zip(rates[name], rates['plain float32'], strict=True)  # of the same round
                row['ratio'] = statistics.median(rate / plain for rate, plain in pairs)
                row['flops'] = row['median'] * flops * calls
                row['share'] = row['flops'] / statistics.median(rates[f'roof {precision}'])
    finally:
        for worker in workers.values(): worker.close()
    return found

def show(preset: str, found: dict[str, Any]) -> None:
    "Print the rates of a preset."
    net = found['network']
    print(f"\n## {preset}: {net['parameters'] / 1e6:.2f} M parameters, {net['forward'] / 1e9:.2f} GFLOP an image "
          f"forwards, {net['step'] / 1e9:.2f} a step")
    rows = []
    for what, words in (('train', 'training'), ('sample', 'sampling')):
        for name, row in found[what].items():
            if name.startswith('roof'): rows.append([words, name, None, None, row['median'] / 1e9, None])
            else: rows.append([words, name, row['median'], row['ratio'], row['flops'] / 1e9, f"{row['share']:.0%}"])
    print(table(['', 'what', 'images/s', 'ratio to plain', 'GFLOP/s', 'share of the roof'], rows), flush=True)

def main() -> None:
    "Read the options, measure, print."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--presets', default='fashion_mnist_cpu,digits,cifar10', help='names, separated by commas')
    parser.add_argument('--rounds', type=int, default=5, help='how often each is measured')
    parser.add_argument('--seconds', type=float, default=10., help='how long each time')
    parser.add_argument('--batch_size', type=int, help="of training, instead of the preset's")
    parser.add_argument('--n', type=int, default=64, help='pictures to draw together')
    parser.add_argument('--sampler_steps', type=int, default=4, help='of sampling: few are as fast a call as many')
    parser.add_argument('--quick', action='store_true', help='a rehearsal: its numbers mean nothing')
    parser.add_argument('--out', help='JSON file to write')
    parser.add_argument('--worker', help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker: return work(json.loads(options.worker))
    if options.quick:
        options.rounds, options.seconds, options.batch_size, options.n, options.sampler_steps = 2, .2, 8, 4, 2
    found: dict[str, Any] = {'machine': machine(), 'presets': {}}
    print(json.dumps(found['machine']))
    for preset in options.presets.split(','):
        found['presets'][preset] = measure(preset, options)
        show(preset, found['presets'][preset])
        write(options.out, found)

if __name__ == '__main__': main()
