"""The parts of the job, each as a process that `job.py` starts. Each step runs on its own: if one fails, its traceback
is printed, and the next goes on."""
from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Generator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent/'bench'), str(HERE.parents[1])]  # `measure`, and the package
BARE = ('IPython', 'execnb', 'ipywidgets', 'nbdev', 'wandb')      # a bare machine lacks these

if '--toy' in sys.argv: sys.modules.update(dict.fromkeys(BARE))   # type: ignore[arg-type]  # importing one fails

import numpy as np
import torch
from measure import flops_an_image, matrix_peak, parameters, table
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from edm_nbdev.config import PRESETS, TrainConfig
from edm_nbdev.core import to_pixels
from edm_nbdev.data import SIZES, Images, images_from, load_data
from edm_nbdev.generation import generate
from edm_nbdev.loop import TrainStep, train
from edm_nbdev.metrics import Moments, frechet_distance
from edm_nbdev.models import list_models, load_model, make_denoiser, model_header
from edm_nbdev.report import METRICS, evaluate, report_table
from edm_nbdev.runs import images_seen, save_weights

Found = dict[str, Any]  # plain values, for results.json

class Part:
    "A part of the job under way: its time, its options, and what it has found."
    def __init__(self,
        options: argparse.Namespace,  # from the command line
    ) -> None:
        self.options, self.toy = options, options.toy
        self.name, self.out, self.work = options.name or f'part {options.part}', Path(options.out), Path(options.work)
        self.data = None if options.data is None else Path(options.data)
        self.device = torch.device(options.device)
        self.ends = options.ends - (2 if self.toy else 6)  # so that the last flush is in time
        self.work.mkdir(parents=True, exist_ok=True)
        self.results = self.work/'results.json'            # of earlier calls, too; `out` has a copy
        self.found: Found = {}
        self.failed = False

    @property
    def left(self) -> float:
        "Seconds that are left."
        return self.ends - time.time()

    def earlier(self, name: str) -> Found:
        "What an earlier part has found."
        return json.loads(self.results.read_text()).get(name, {}) if self.results.is_file() else {}

    def flush(self) -> None:
        "Write what is known, whole or not at all."
        known = json.loads(self.results.read_text()) if self.results.is_file() else {}
        beside = self.results.with_suffix('.part')
        beside.write_text(json.dumps({**known, self.name: self.found}, indent=1, default=str))
        os.replace(beside, self.results)
        shutil.copyfile(self.results, self.out/self.results.name)

    def run(self,
        name: str,                  # of the step
        step: Callable[..., Found], # called with this part and the arguments
        *args: Any,
        least: float = 0.,          # seconds without which it does not begin
    ) -> Found:                     # what it found; empty if it failed
        "Do a step; whatever it raises is printed and noted."
        began = time.monotonic()
        row: Found = {}
        self.found[name] = row
        if self.left < least: row['skipped'] = f'{max(0, self.left):.0f} s were left, and {least:.0f} s are needed'
        else:
            try: row.update(step(self, *args))
            except Exception as e:
                self.failed = True
                row['failed'] = f'{type(e).__name__}: {e}'[:500]
                print(f'-- {self.name}, {name} failed:\n{traceback.format_exc()}', flush=True)
        row['seconds'] = round(time.monotonic() - began, 2)
        self.flush()
        print(f'-- {name}: {json.dumps(row, default=str)[:2000]}', flush=True)
        return {} if 'failed' in row or 'skipped' in row else row

    def wait(self) -> None:
        "Until the device has done all."
        if self.device.type == 'cuda': torch.cuda.synchronize()

    def config(self, preset: str, **changes: Any) -> TrainConfig:
        "A preset without an end, in bf16, kept nowhere; small in a rehearsal."
        config = replace(PRESETS[preset], precision='bf16', device=str(self.device), images=10**9, hold_out=0.,
                         check_every=None)  # `finetune` checks; here steps are timed
        if self.toy: config = replace(config, width=16, head_channels=16, batch_size=2, warmup_images=8)
        return replace(config, **changes)

# data

def random_images(config: TrainConfig, n: int) -> Images:
    "Random pixels in the shape of a preset's pictures, with ten classes where it learns classes."
    name = config.data or 'mine'
    size = config.size or SIZES.get(name, (32,))[0]
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (n, 1 if name in ('digits', 'fashion_mnist') else 3, size, size), dtype=np.uint8)
    if name == 'celeba': return images_from(pixels, name=name)
    return images_from(pixels, rng.integers(0, 10, n), [str(i) for i in range(10)], name)

def read_cifar10(folder: Path, split: str) -> Images:
    "What `pack.py` wrote: pixels as differences from the left neighbour."
    files = sorted(folder.glob(f'cifar10-{split}-*.npz'))
    if not files: raise FileNotFoundError(f'no cifar10-{split}-*.npz in {folder}')
    loaded = [np.load(file) for file in files]
    pixels = np.concatenate([np.cumsum(f['steps'], axis=-1, dtype=np.uint8) for f in loaded])
    labels = np.concatenate([f['labels'] for f in loaded])
    return images_from(pixels, labels, [str(c) for c in loaded[0]['classes']], 'cifar10')

def read_data(part: Part, name: str) -> tuple[Images, Images | None]:
    "Training and unseen pictures, from what was brought along."
    if part.data is None: raise FileNotFoundError('no --data was given')
    if name == 'cifar10': return read_cifar10(part.data, 'train'), read_cifar10(part.data, 'test')
    if name == 'faces': return load_data(part.data/'faces', part.work, size=64), None
    return load_data(name, part.data), load_data(name, part.data, 'test')

def some(images: Images, n: int) -> Images:
    "The first pictures of a set."
    return replace(images, images=images.images[:n], labels=None if images.labels is None else images.labels[:n])

def begin(config: TrainConfig, n: int) -> Generator[TrainStep, None, None]:
    "A training on random pixels, to be closed."
    return cast(Generator[TrainStep, None, None], train(config, random_images(config, n)))

# part 1

def versions(part: Part) -> Found:
    "What the job runs on."
    found = {'python': platform.python_version(), 'torch': torch.__version__, 'cuda': torch.version.cuda,
             'numpy': np.__version__, 'cores': os.cpu_count(), 'device': str(part.device), 'toy': part.toy}
    commit = HERE.parents[1]/'COMMIT'
    if commit.is_file(): found['commit'] = commit.read_text().strip()
    if part.device.type == 'cuda':
        card = torch.cuda.get_device_properties(part.device)
        found |= {'card': card.name, 'gigabytes': round(card.total_memory / 2**30, 1),
                  'cudnn': torch.backends.cudnn.version(), 'processors': card.multi_processor_count,
                  'capability': list(torch.cuda.get_device_capability())}
    query = ['nvidia-smi', '--query-gpu=name,driver_version,power.limit,clocks.max.sm', '--format=csv,noheader']
    try: found['driver'] = subprocess.run(query, capture_output=True, text=True).stdout.strip()
    except OSError: found['driver'] = None  # a machine without a card
    return found

def one_step(part: Part, preset: str) -> Found:
    "Two steps of training, in bf16 and at most 32 pictures: a finite loss, and no gradient left out."
    config = part.config(preset)
    config = replace(config, batch_size=min(config.batch_size, 32))
    steps = begin(config, 64)
    for _ in range(2): step = next(steps)
    found = {'loss': float(step.loss), 'skipped_steps': step.skipped, 'good': bool(step.good),
             'parameters': parameters(step.denoiser)}
    steps.close()
    if not np.isfinite(found['loss']) or found['skipped_steps'] or not found['good']:
        raise AssertionError(f'not finite: {found}')
    if part.device.type == 'cuda': found['gigabytes'] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    return found

def attention(part: Part, preset: str) -> Found:
    "Which kernels attention takes, in training and in sampling: a fused one is wanted in both."
    config = part.config(preset)
    data = random_images(config, 8)
    denoiser = make_denoiser(config, data).to(part.device)
    x, sigma = torch.randn(4, *data.shape, device=part.device), torch.ones(4, device=part.device)
    found: Found = {}
    for name, training in (('training', True), ('sampling', False)):
        denoiser.train(training)
        bf16 = torch.autocast(part.device.type, torch.bfloat16)
        with profile(activities=[ProfilerActivity.CPU]) as seen, bf16, nullcontext() if training else torch.no_grad():
            denoiser(x, sigma)
        found[name] = sorted({e.key for e in seen.key_averages() if 'scaled_dot_product' in e.key})
    for name, kernels in found.items():
        if not any(word in kernel for kernel in kernels for word in ('flash', 'efficient', 'cudnn')):
            raise AssertionError(f'no fused attention in {name}: {kernels}')
    return found

def synchronisations(part: Part) -> Found:
    "How often a step makes the CPU wait for the GPU, after the first steps; and what precision policy training sets."
    config = part.config('fashion_mnist')
    steps = begin(config, 1024)
    for _ in range(3): next(steps)
    counted = 10
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        if part.device.type == 'cuda': torch.cuda.set_sync_debug_mode('warn')
        for _ in range(counted): next(steps)
        if part.device.type == 'cuda': torch.cuda.set_sync_debug_mode('default')
    steps.close()
    places = [f'{Path(w.filename).name}:{w.lineno}' for w in caught if 'called a synchronizing' in str(w.message)]
    return {'a step': len(places) / counted, 'where': sorted(set(places)),
            'tf32 products': torch.backends.cuda.matmul.allow_tf32,
            'tf32 convolutions': torch.backends.cudnn.allow_tf32, 'cudnn benchmark': torch.backends.cudnn.benchmark}

def resuming(part: Part) -> Found:
    "A run of 6 steps, and one of 3 and again 3: how far their weights are apart."
    weights = []
    for name, stops in (('whole', (6,)), ('halves', (3, 6))):
        run = part.work/f'resuming-{name}'
        shutil.rmtree(run, ignore_errors=True)  # of an earlier call
        for steps in stops:
            config = part.config('digits', images=steps * 4, batch_size=4, run=str(run))
            for step in train(config, random_images(config, 64)): pass
        weights.append(torch.cat([p.detach().flatten() for p in step.denoiser.parameters()]))
    whole, halves = weights
    return {'largest difference': (whole - halves).abs().max().item(), 'largest': whole.abs().max().item()}

def drawing(part: Part, name: str) -> Found:
    "Pictures of a shipped model, here and on the CPU, in float32 and in bf16."
    n, steps = (2, 3) if part.toy else (8, 18)
    model = load_model(name, part.device)
    label: int | None = 0 if model.n_classes else None
    drawn = {p: generate(model, n, label, steps=steps, precision=p).float().cpu() for p in ('float32', 'bf16')}
    drawn['guided'] = generate(model, n, label, 2. if model.n_classes else 1., steps=steps).cpu()
    there = generate(load_model(name, 'cpu'), n, label, steps=steps, precision='float32')
    if not all(x.isfinite().all() for x in drawn.values()): raise AssertionError('not finite')
    return {f'{p} from the CPU': (x - there).abs().max().item() for p, x in drawn.items() if p != 'guided'}

def judging(part: Part) -> Found:
    "All metrics of the shipped digits, with the classifier."
    splits = load_data('digits'), load_data('digits', split='test')
    if part.toy: splits = some(splits[0], 150), some(splits[1], 50)
    settings: Found = {'steps': 3, 'batch_size': 12} if part.toy else {}
    n = 12 if part.toy else 200
    report = evaluate(load_model('digits', part.device), n=n, data=splits, root=part.work, **settings)
    return {'metrics': report.metrics}

def part_1(part: Part) -> None:
    "Does everything work?"
    part.run('versions', versions)
    part.run('attention of cifar10', attention, 'cifar10')
    part.run('synchronisations', synchronisations)
    part.run('resuming', resuming)
    for name in list_models()[:2] if part.toy else list_models(): part.run(f'drawing with {name}', drawing, name)
    part.run('judging', judging)
    for preset in PRESETS: part.run(f'a step of {preset}', one_step, preset)  # the large ones last

# part 2

SPEED = ('cifar10_large', 'cifar10', 'fashion_mnist', 'celeba64')  # the most telling first

def peak(part: Part) -> Found:
    "The card's rate of large products in bf16."
    n, seconds = (256, .1) if part.toy else (8192, 2.)
    return {'bf16': matrix_peak(str(part.device), torch.bfloat16, n, seconds)}

def network_flops(config: TrainConfig) -> dict[str, float]:
    "Operations an image of a config's network."
    data = random_images(config, 2)
    with torch.device('meta'): denoiser = make_denoiser(config, data)
    return flops_an_image(denoiser, data.shape)

def training_rate(part: Part, preset: str, roof: float, compiled: bool) -> Found:
    "Images/s of training, the share of the peak, and the seconds of the first steps."
    config = part.config(preset, compile=compiled)
    if part.toy and compiled: config = replace(config, mults=(1,), blocks=1, attention_resolutions=())
    steps, began = begin(config, 4096), time.monotonic()
    for _ in range(2 if part.toy else 8): next(steps)
    part.wait()
    first, began, done = time.monotonic() - began, time.monotonic(), 0
    while time.monotonic() - began < (.2 if part.toy else 3.):
        next(steps)
        done += config.batch_size
    part.wait()
    rate = done / (time.monotonic() - began)
    steps.close()
    flops = rate * network_flops(config)['step']
    return {'images/s': rate, 'TFLOP/s': flops / 1e12, 'share': flops / roof, 'first steps': first,
            'batch_size': config.batch_size}

def sampling_rate(part: Part, preset: str, roof: float) -> Found:
    "Images/s of sampling with 18 steps, 35 calls of the network, in bf16."
    n, steps = (2, 2) if part.toy else (2048, 18)
    few: Found = {'batch_size': n} if part.toy else {}
    config = part.config(preset)
    data = random_images(config, 16)
    model = make_denoiser(config, data).to(part.device).eval()
    label = torch.arange(n) % len(data.classes) if data.classes else None
    def draw(n: int, steps: int) -> None:
        generate(model, n, None if label is None else label[:n], steps=steps, precision='bf16', **few)
        part.wait()
    draw(n, 2)  # finds the batch
    began = time.monotonic()
    draw(n, steps)
    rate = n / (time.monotonic() - began)
    flops = rate * (2 * steps - 1) * network_flops(config)['forward']
    return {'images/s': rate, 'TFLOP/s': flops / 1e12, 'share': flops / roof, 'n': n, 'sampler steps': steps}

def profiled(part: Part, preset: str) -> Found:
    "The ten operations that take most of a step, and the share of the time in which the card works."
    config, cuda = part.config(preset), part.device.type == 'cuda'
    steps = begin(config, 4096)
    for _ in range(2 if part.toy else 8): next(steps)
    part.wait()
    counted, began = 1 if part.toy else 5, time.monotonic()
    activities = [ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * cuda]
    with profile(activities=activities) as seen:
        for _ in range(counted): next(steps)
        part.wait()
        wall = time.monotonic() - began
    steps.close()
    wanted = DeviceType.CUDA if cuda else DeviceType.CPU
    rows = [(e.key, (e.self_device_time_total if cuda else e.self_cpu_time_total) / 1e3 / counted, e.count // counted)
            for e in seen.key_averages() if e.device_type == wanted and not getattr(e, 'is_user_annotation', False)]
    rows.sort(key=lambda row: -row[1])
    total = sum(ms for _, ms, _ in rows)
    print(table(['operation', 'ms a step', 'calls'], [(key[:90], ms, calls) for key, ms, calls in rows[:10]]))
    return {'ms a step': 1e3 * wall / counted, 'busy': total * counted / 1e3 / wall, 'top': rows[:10]}

def part_2(part: Part) -> None:
    "How fast is it?"
    roof = part.run('peak', peak).get('bf16', float('nan'))
    for preset in SPEED: part.run(f'{preset} eager', training_rate, preset, roof, False, least=8)
    for preset in SPEED[:1] if part.toy else SPEED: part.run(f'{preset} profile', profiled, preset, least=6)
    for preset in SPEED: part.run(f'{preset} sampling', sampling_rate, preset, roof, least=5)
    order = ('fashion_mnist',) if part.toy else ('cifar10', 'cifar10_large', 'fashion_mnist', 'celeba64')
    for preset in () if part.options.no_compile else order:
        part.run(f'{preset} compiled', training_rate, preset, roof, True, least=30)
    rows = [[name, *(row.get(k) for k in ('images/s', 'TFLOP/s', 'share'))] for name, row in part.found.items()]
    print(table(['', 'images/s', 'TFLOP/s', 'share of the peak'], [row for row in rows if row[1] is not None]))

# parts 3 and 4

def compiling_pays(part: Part, preset: str, seconds: float) -> bool:
    "Whether part 2 saw that a compiled network sees more images in so many seconds."
    seen = part.earlier('part 2')
    eager, compiled = (seen.get(f'{preset} {how}', {}) for how in ('eager', 'compiled'))
    if part.options.no_compile or 'images/s' not in eager or 'images/s' not in compiled: return False
    images = [row['images/s'] * (seconds - row['first steps']) for row in (eager, compiled)]
    return images[1] > images[0]

def by_the_clock(part: Part, config: TrainConfig, data: Images, reserve: float) -> Found:
    "Train until only `reserve` seconds are left; the run is saved then."
    seconds = part.left - reserve
    if part.toy: seconds = min(seconds, 3.)
    if seconds < 2: raise TimeoutError(f'{part.left:.0f} s are left, and {reserve:.0f} s are kept for the rest')
    run = part.work/config.preset
    config = replace(config, minutes=seconds / 60, run=str(run), compile=compiling_pays(part, config.preset, seconds))
    file = part.options.start if part.options.part == 4 else None
    start = None if file is None else load_model(file, part.device)
    found: Found = {'compile': config.compile, 'from': file, 'history': []}
    part.found[f'training {config.preset}'] = found
    began = shown = time.monotonic()
    for step in train(config, data, start):
        now = time.monotonic()
        if now - shown > (1 if part.toy else 10):
            shown = now
            found['history'].append([round(now - began, 1), step.images, float(step.loss_mean)])
            part.flush()
            print(f'{step.images:,} images, loss {float(step.loss_mean):.4f}', flush=True)
    found |= {'images': step.images, 'loss_mean': float(step.loss_mean), 'skipped_steps': step.skipped,
              'images/s': step.images / (time.monotonic() - began)}
    return found

def bring_weights(part: Part, preset: str) -> Found:
    "The averaged weights in half precision, and in the header nothing of this machine."
    run = part.work/preset
    model = load_model(run, part.device)
    seen = images_seen(run)
    config = replace(model.config, run=None, root=None, device=None, minutes=None, compile=False, images=seen)
    header = model_header(model.data, config, None, seen // config.batch_size)
    file = part.out/f'{preset}.safetensors'
    save_weights(file, model.state_dict(), torch.float16, **header)
    load_model(file, 'cpu')
    return {'megabytes': file.stat().st_size / 1e6, 'images': seen}

def bring_picture(part: Part, preset: str) -> Found:
    "Eight pictures in a row, each row of one class where there are classes."
    from torchvision.io import write_png
    from torchvision.utils import make_grid
    model = load_model(part.work/preset, part.device)
    columns, rows = (2, 2) if part.toy else (8, max(4, min(10, model.n_classes)))
    label = torch.arange(rows).repeat_interleave(columns) if model.n_classes else None
    few: Found = {'steps': 3, 'batch_size': 4} if part.toy else {}
    x = generate(model, rows * columns, label, **few).float().cpu()
    write_png(make_grid(to_pixels(x).expand(-1, 3, -1, -1), columns, padding=1), str(part.out/f'{preset}.png'))
    return {'pictures': len(x), 'least': x.min().item(), 'largest': x.max().item()}

def judged(part: Part, preset: str, splits: tuple[Images, Images | None], n: int) -> Found:
    "What the shipped interface says of the run, bits apart: they take long, and say little of pictures."
    settings: Found = {'steps': 3, 'batch_size': 12, 'n': 12} if part.toy else {'n': n}
    metrics = [name for name in METRICS if name != 'bits' and (splits[1] is not None or name != 'copying')]
    report = evaluate(load_model(part.work/preset, part.device), part.work/f'{preset}-judged', metrics=metrics,
                      data=splits, root=part.work, **settings)
    print(report_table(report), flush=True)
    return {'n': report.n, 'settings': report.settings, 'metrics': report.metrics}

def bring_moments(part: Part, preset: str) -> Found:
    "Count, mean and scatter of the features of all drawn pictures: enough for their Fréchet distance to anything."
    folder = part.work/f'{preset}-judged'
    files = [file for file in folder.glob('*.npy') if not file.name.startswith('bits-')]
    rows = np.load(max(files, key=lambda file: file.stat().st_mtime), mmap_mode='r')
    moments = Moments().add(np.array(rows))
    half = [Moments().add(np.array(rows[i::2])) for i in (0, 1)]
    np.savez_compressed(part.out/f'{preset}-moments.npz', n=moments.n, mean=moments.mean.cpu().numpy(),
                        scatter=moments.scatter.cpu().numpy().astype(np.float32))
    return {'n': moments.n, 'features': rows.shape[1], 'distance of its halves': frechet_distance(*half)}

def reserve_for(part: Part, preset: str, n: int) -> tuple[int, float]:
    "How many pictures to judge by, and how many seconds to keep for all that comes after training."
    if part.toy: return n, 20.
    rate = part.earlier('part 2').get(f'{preset} sampling', {}).get('images/s', 300.)
    n = int(max(1000, min(n, rate * part.left / 4)))
    return n, 45 + 1.2 * n / rate

def train_and_judge(part: Part, config: TrainConfig, splits: tuple[Images, Images | None], n: int) -> None:
    "Train by the clock; bring back weights and picture; judge."
    preset = config.preset
    n, reserve = reserve_for(part, preset, n)
    part.run(f'training {preset}', by_the_clock, config, splits[0], reserve)
    if preset != 'faces': part.run(f'weights of {preset}', bring_weights, preset)  # whose licence is not stated
    part.run(f'picture of {preset}', bring_picture, preset)
    part.run(f'{preset} judged', judged, preset, splits, n)

def reading(part: Part, name: str, box: list[Any]) -> Found:
    "Read the data; they go into `box`."
    box[:] = read_data(part, name)
    return {'training': len(box[0]), 'unseen': 0 if box[1] is None else len(box[1]), 'sigma_data': box[0].sigma_data}

def part_3(part: Part) -> None:
    "fashion_mnist by the clock."
    splits: list[Any] = []
    if part.run('data of fashion_mnist', reading, 'fashion_mnist', splits):
        train_and_judge(part, part.config('fashion_mnist'), (splits[0], splits[1]), 10_000)

def part_4(part: Part) -> None:
    "cifar10, or faces, by the clock."
    name: str = part.options.part4
    splits: list[Any] = []
    if not part.run(f'data of {name}', reading, name, splits): return
    config = part.config('cifar10')
    if name == 'faces':
        faces = PRESETS['celeba64']
        config = replace(config if part.toy else part.config('celeba64'), preset='faces', data='faces', size=64,
                         mults=faces.mults, attention_resolutions=faces.attention_resolutions)
    train_and_judge(part, config, (splits[0], splits[1]), 50_000)
    part.run(f'moments of {config.preset}', bring_moments, config.preset)

def main() -> int:
    "Run one part. Returns 1 if a step failed."
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ('out', 'work', 'data', 'device', 'part4', 'start', 'name'): parser.add_argument(f'--{name}')
    parser.add_argument('--part', type=int, required=True)
    parser.add_argument('--ends', type=float, required=True)
    for name in ('toy', 'no_compile'): parser.add_argument(f'--{name}', action='store_true')
    part = Part(parser.parse_args())
    {1: part_1, 2: part_2, 3: part_3, 4: part_4}[part.options.part](part)
    return int(part.failed)

if __name__ == '__main__': sys.exit(main())
