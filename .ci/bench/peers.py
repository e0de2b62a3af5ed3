"""Training steps of other packages, each beside ours with as many operations an image, in turn.

usage: python .ci/bench/peers.py [--venv FOLDER] [--peers NAMES] [--rounds 5] [--seconds 10] [--batch_size 64] [--quick]
                                 [--out FILE.json]

The peers are smalldiffusion, denoising-diffusion-pytorch, k-diffusion and azula, as `peers.txt` names them. They are
installed from the registry into a virtual environment of their own (FOLDER, made if it is not there), which sees the
torch of the environment that runs this script. Each trains its own U-Net at about 7 M parameters, in the proportions
of its own examples, on grey pictures of 32x32 pixels, with its own loss, optimizer and average, as its own loop or
example does it, in float32 and with its default threads. Ours is trained by `train` as shipped, on the same pictures,
with the width that comes nearest to the peer's operations an image. Since they still differ, GFLOP/s are printed beside
images/s: they compare what is made of the machine, not of the network. Run it on a machine that does nothing else."""
from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from measure import (
    Worker,
    count_flops,
    flops_an_image,
    in_turn,
    machine,
    open_channel,
    parameters,
    repeat,
    serve,
    summary,
    table,
    write,
)
from torch import Tensor, nn

SIZE, N_IMAGES = 32, 2000
Training = tuple[nn.Module, Iterator[Any]]  # a network, and its training: each `next` is a step

def pictures() -> Tensor:
    "Random grey pictures (N,1,S,S) in [-1,1]: speed does not depend on them."
    return torch.rand(N_IMAGES, 1, SIZE, SIZE) * 2 - 1

def batches(batch_size: int) -> Iterator[Tensor]:
    "Random batches without end."
    y = pictures()
    while True: yield y[torch.randint(len(y), (batch_size,))]

def smalldiffusion(batch_size: int) -> Training:
    "Its FashionMNIST example: `training_loop`, and the average that the example keeps."
    from smalldiffusion import ScheduleDDPM, Unet, training_loop
    model = Unet(SIZE, 1, 1, ch=64, ch_mult=(1, 2, 2), attn_resolutions=(16,))
    averages = [p.detach().clone() for p in model.parameters()]
    class Loader(torch.utils.data.Dataset):
        "Single pictures for a DataLoader."
        y = pictures()
        def __len__(self) -> int: return len(self.y)
        def __getitem__(self, i: int) -> Tensor: return self.y[i]
    loader = torch.utils.data.DataLoader(Loader(), batch_size, shuffle=True, drop_last=True)
    def steps() -> Iterator[Any]:
        for _ in training_loop(loader, model, ScheduleDDPM(beta_start=1e-4, beta_end=.02), epochs=10**9, lr=7e-4):
            yield
            for averaged, p in zip(averages, model.parameters(), strict=True): averaged.lerp_(p.detach(), .01)
    return model, steps()

def denoising_diffusion(batch_size: int) -> Training:
    "The step of its `Trainer`, which reads pictures from a folder: here they are in memory."
    from denoising_diffusion_pytorch import GaussianDiffusion, Unet
    from ema_pytorch import EMA
    model = Unet(28, channels=1, dim_mults=(1, 2, 4, 8))
    diffusion = GaussianDiffusion(model, image_size=SIZE, timesteps=1000)
    optimizer = torch.optim.Adam(diffusion.parameters(), lr=1e-4, betas=(.9, .99))
    ema = EMA(diffusion, beta=.995, update_every=10)
    def steps() -> Iterator[Any]:
        for y in batches(batch_size):
            diffusion((y + 1) / 2).backward()
            torch.nn.utils.clip_grad_norm_(diffusion.parameters(), 1.)
            optimizer.step()
            optimizer.zero_grad()
            ema.update()
            yield
    return model, steps()

def k_diffusion(batch_size: int) -> Training:
    "The step of its `train.py` with an `image_v1` network, in the proportions of its MNIST config."
    for name in ('clip', 'cleanfid', 'cleanfid.inception_torchscript', 'skimage'):  # of its evaluation, not used here
        sys.modules.setdefault(name, ModuleType(name))
    vars(sys.modules['cleanfid.inception_torchscript']).setdefault('InceptionV3W', None)
    vars(sys.modules['skimage']).setdefault('transform', None)
    import k_diffusion as K
    net = K.models.ImageDenoiserModelV1(1, 256, [2, 2, 2], [64, 128, 192], [False, False, True], has_variance=True,
                                        dropout_rate=.05)
    model = K.layers.DenoiserWithVariance(net, sigma_data=.6162)
    optimizer = torch.optim.AdamW(net.param_groups(2e-4), betas=(.95, .999), eps=1e-6, weight_decay=1e-3)
    average = deepcopy(model)
    def steps() -> Iterator[Any]:
        for y in batches(batch_size):
            sigma = K.utils.rand_log_normal([len(y)], loc=-1.2, scale=1.2)
            model.loss(y, torch.randn_like(y), sigma).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            K.utils.ema_update(model, average, .9999)
            yield
    return net, steps()

def azula(batch_size: int) -> Training:
    "The loop of its README, on its U-Net with the noise level as modulation; it keeps no average."
    from azula.denoise import KarrasDenoiser
    from azula.nn.layers import SineEncoding
    from azula.nn.unet import UNet
    from azula.noise import VPSchedule
    class Backbone(nn.Module):
        "Its U-Net, told the noise level."
        def __init__(self) -> None:
            super().__init__()
            self.net = UNet(1, 1, hid_channels=(64, 128, 192), hid_blocks=(2, 2, 2), mod_features=256)
            self.time = nn.Sequential(SineEncoding(256), nn.Linear(256, 256), nn.SiLU(), nn.Linear(256, 256))
        def forward(self, x: Tensor, t: Tensor) -> Tensor: return self.net(x, self.time(t))
    model = KarrasDenoiser(Backbone(), VPSchedule())
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    def steps() -> Iterator[Any]:
        for y in batches(batch_size):
            model.loss(y, torch.rand(len(y))).backward()
            optimizer.step()
            optimizer.zero_grad()
            yield
    return model.backbone, steps()

PEERS: dict[str, Callable[[int], Training]] = {
    'smalldiffusion': smalldiffusion, 'denoising-diffusion-pytorch': denoising_diffusion, 'k-diffusion': k_diffusion,
    'azula': azula}

def our_config(width: int, batch_size: int) -> Any:
    "Our network for small grey pictures, attending at 16 and 8 pixels a side as fashion_mnist does."
    from edm_nbdev.config import PRESETS
    return replace(PRESETS['fashion_mnist'], width=width, head_channels=width, batch_size=batch_size, dropout=0.,
                   precision='float32', device='cpu', images=10**12)

def our_network(config: Any) -> tuple[int, float]:
    "Parameters, and operations of a step for an image."
    from edm_nbdev.core import About
    from edm_nbdev.models import make_denoiser
    with torch.device('meta'): model = make_denoiser(config, About('fashion_mnist', ['0', '1'], (1, SIZE, SIZE), .5))
    return parameters(model), flops_an_image(model, (1, SIZE, SIZE))['step']

def ours(batch_size: int, flops: float) -> tuple[dict[str, Any], Iterator[Any]]:
    "Our training with the width that comes nearest to so many operations."
    from edm_nbdev.data import images_from
    from edm_nbdev.devices import tune_memory
    from edm_nbdev.loop import train
    tune_memory()
    sizes = {width: our_network(our_config(width, batch_size)) for width in range(16, 161, 8)}
    width = min(sizes, key=lambda w: abs(sizes[w][1] - flops))
    data = images_from(((pictures() + 1) * 127.5).to(torch.uint8), torch.arange(N_IMAGES) % 2, name='fashion_mnist')
    about = {'width': width, 'parameters': sizes[width][0], 'flops': sizes[width][1]}
    return about, train(our_config(width, batch_size), data)

def work(task: dict[str, Any]) -> None:
    "A worker: a peer, or ours with as many operations as a peer."
    channel = open_channel()
    batch_size = task['batch_size']
    if task['peer'] == 'ours': about, training = ours(batch_size, task['flops'])
    else:
        network, training = PEERS[task['peer']](batch_size)
        next(training)
        about = {'parameters': parameters(network), 'flops': count_flops(lambda: next(training)) / batch_size}
    for _ in range(2): next(training)
    serve(channel, {**about, 'threads': torch.get_num_threads(), 'torch': torch.__version__},
          {'train': lambda seconds: repeat(lambda: next(training), batch_size, seconds)})

def install(folder: Path) -> Path:
    "Make the peers' environment, unless it is there. Returns its interpreter."
    python = folder/('Scripts' if sys.platform == 'win32' else 'bin')/'python'
    listed = Path(__file__).with_name('peers.txt')
    done = folder/'peers.txt'
    if done.is_file() and done.read_text() == listed.read_text(): return python
    venv.create(folder, with_pip=True)
    ask = [str(python), '-c', 'import sysconfig; print(sysconfig.get_paths()["purelib"])']
    theirs = Path(subprocess.run(ask, check=True, capture_output=True, text=True).stdout.strip())
    (theirs/'running.pth').write_text(sysconfig.get_paths()['purelib'] + '\n')  # after its own: torch is found there
    subprocess.run([str(python), '-m', 'pip', 'install', '-q', '--no-deps', '-r', str(listed)], check=True)
    done.write_text(listed.read_text())
    return python

def measure(peer: str, python: Path, options: argparse.Namespace) -> dict[str, Any]:
    "A peer and ours in turn."
    workers = {}
    try:
        workers[peer] = Worker(__file__, {'peer': peer, 'batch_size': options.batch_size}, python=str(python))
        flops = workers[peer].about['flops']
        workers['ours'] = Worker(__file__, {'peer': 'ours', 'batch_size': options.batch_size, 'flops': flops})
        rates = in_turn(workers, 'train', options.rounds, options.seconds)
        found = {name: {**worker.about, **summary(rates[name])} for name, worker in workers.items()}
    finally:
        for worker in workers.values(): worker.close()
    for row in found.values(): row['rate'] = row['median'] * row['flops']
    images = statistics.median(a / b for a, b in zip(rates['ours'], rates[peer], strict=True))
    return {'rows': found, 'ratio_images': images,
            'ratio_operations': images * found['ours']['flops'] / found[peer]['flops']}

def main() -> None:
    "Read the options, install, measure, print."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--venv', default=str(Path.home()/'.cache'/'edm_nbdev-peers'),
                        help="folder of the peers' environment")
    parser.add_argument('--peers', default=','.join(PEERS), help='names, separated by commas')
    parser.add_argument('--rounds', type=int, default=5, help='how often each is measured')
    parser.add_argument('--seconds', type=float, default=10., help='how long each time')
    parser.add_argument('--batch_size', type=int, default=64, help='of training')
    parser.add_argument('--quick', action='store_true', help='a rehearsal: its numbers mean nothing')
    parser.add_argument('--out', help='JSON file to write')
    parser.add_argument('--worker', help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker: return work(json.loads(options.worker))
    if options.quick: options.rounds, options.seconds, options.batch_size = 2, .2, 4
    python = install(Path(options.venv).absolute())
    found: dict[str, Any] = {'machine': machine(), 'batch_size': options.batch_size, 'peers': {}}
    print(json.dumps(found['machine']), flush=True)
    rows: list[list[Any]] = []
    for peer in options.peers.split(','):
        pair = found['peers'][peer] = measure(peer, python, options)
        for name, row in pair['rows'].items():
            ratios = [pair['ratio_images'], pair['ratio_operations']] if name == 'ours' else [1., 1.]
            rows.append([name, f"{row['parameters'] / 1e6:.2f} M", row['flops'] / 1e9, row['median'],
                         row['rate'] / 1e9, *ratios])
        print(f'{peer}: measured', file=sys.stderr, flush=True)
        write(options.out, found)
    print(table(['', 'parameters', 'GFLOP an image', 'images/s', 'GFLOP/s', 'images to peer', 'GFLOP/s to peer'], rows))

if __name__ == '__main__': main()
