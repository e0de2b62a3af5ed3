"""What a checkpoint costs: the state of a training, copied and then written in the background, as `loop.Training` does.

usage: python .ci/bench/checkpoints.py [--millions 1,34,300] [--folder WHERE] [--device cpu] [--rounds 3] [--small]
                                       [--out FILE.json]

A state is a network of so many million parameters, three averages and Adam's two moments: 24 bytes a parameter. Beside
it the averaged weights are written as the model. The copy stops the training; of the three copies the first one gets
fresh memory and the others use its memory again. The write slows the training down: products of matrices stand for a
training, and are timed with and without a write beside them. The interval is the one that keeps both within 3 % of the
time. Disks differ: --folder says where the run will be. 300 million parameters take 9 GB of memory, 16 GB on the disk
(removed at the end) and a few minutes; --small is a rehearsal whose numbers mean nothing. Run it on a machine that does
nothing else."""
from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from measure import machine, table, write
from torch import Tensor

from edm_nbdev.checkpoints import Interval, Saver, copy_state
from edm_nbdev.devices import tune_memory
from edm_nbdev.runs import save_state, save_weights

PARTS = ('model', 'ema', 'ema 0.050', 'ema 0.100', 'exp_avg', 'exp_avg_sq')  # each as large as the network

def shapes(
    count: int,  # parameters
) -> list[tuple[int, ...]]:  # of convolutions and their biases, which have that many together
    "Shapes like a network's: more channels, the larger it is."
    channels = 64 if count < 10e6 else 256 if count < 100e6 else 512
    layer = [(channels, channels, 3, 3), (channels,)]
    size = channels * channels * 9 + channels
    rest = count % size
    return layer * (count // size) + ([(rest,)] if rest else [])

def make_state(
    count: int,   # parameters
    device: str,  # where the training is
) -> dict[str, Any]:
    """A state as large as a training's. Its parts are views of one piece of memory, each at another place, so that the
    sources take a sixth of the memory of the copies; a copy reads and writes as much as from six pieces."""
    memory = torch.randn(count + len(PARTS), device=device)
    def part(start: int) -> dict[str, Tensor]:
        found = {}
        for i, shape in enumerate(shapes(count)):
            size = torch.Size(shape).numel()
            found[f'layer {i}'] = memory[start:start + size].view(shape)
            start += size
        return found
    return {'config': {}, 'step': 0, **{name: part(i) for i, name in enumerate(PARTS)}}

def work(device: str, matrix: Tensor) -> float:
    "Seconds of a piece of work that stands for a step."
    start = time.perf_counter()
    for _ in range(4): torch.mm(matrix, matrix)
    if device != 'cpu': torch.cuda.synchronize()
    return time.perf_counter() - start

def measure(
    millions: float,              # of parameters
    options: argparse.Namespace,  # as below
    folder: Path,                 # where to write
) -> dict[str, Any]:
    "Copy and write a state several times; what it took."
    count, copied = round(millions * 1e6), None
    state = make_state(count, options.device)
    matrix = torch.randn(512 if options.small else 1024, 512 if options.small else 1024, device=options.device)
    interval = Interval(least=0.)
    for _ in range(10): work(options.device, matrix)
    alone = [work(options.device, matrix) for _ in range(30)]
    for seconds in alone: interval.step(seconds, False)
    copying, writing, beside = [], [], []
    def save() -> None:
        start = time.perf_counter()
        save_state(folder, copied)
        save_weights(folder/'model.safetensors', copied['ema'])
        writing.append(time.perf_counter() - start)
    with Saver() as saver:
        for _ in range(options.rounds):
            start = time.perf_counter()
            copied = copy_state(state, copied)
            copying.append(time.perf_counter() - start)
            interval.spent(copying[-1])
            saver.submit(save)
            while saver.busy:
                beside.append(work(options.device, matrix))
                interval.step(beside[-1], True)
            saver.wait()
    size = sum(file.stat().st_size for file in (folder/'state.pt', folder/'model.safetensors'))
    slower = statistics.mean(beside) / statistics.median(alone) - 1 if beside else 0.
    return {'parameters': count, 'bytes': size, 'first copy': copying[0],
            'copy': statistics.median(copying[1:] or copying),
            'write': statistics.median(writing), 'slower': slower, 'cost': interval.cost, 'interval': interval.seconds,
            'copies': copying, 'writes': writing}

def main() -> None:
    "Read the options, measure, print."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--millions', default='1,34,300', help='parameters, in millions, separated by commas')
    parser.add_argument('--folder', help="where to write, such as a run's disk; a temporary folder without it")
    parser.add_argument('--device', default='cpu', help='where the training is: cpu or cuda')
    parser.add_argument('--rounds', type=int, default=3, help='how often each state is saved')
    parser.add_argument('--small', action='store_true', help='a rehearsal: its numbers mean nothing')
    parser.add_argument('--out', help='JSON file to write')
    options = parser.parse_args()
    if options.small: options.millions, options.rounds = '0.1,1', 2
    tune_memory()  # as the commands do
    found: dict[str, Any] = {'machine': {**machine(), 'threads': torch.get_num_threads(), 'device': options.device}}
    if options.device != 'cpu': found['machine']['device'] = torch.cuda.get_device_name()
    print(json.dumps(found['machine']))
    found['checkpoints'] = []
    for millions in options.millions.split(','):
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            found['checkpoints'].append(measure(float(millions), options, Path(folder)))
        write(options.out, found)
    rows = [[f"{row['parameters'] / 1e6:g} M", row['bytes'] / 1e9, row['first copy'], row['copy'], row['write'],
             f"{row['slower']:.0%}", row['cost'], row['interval']] for row in found['checkpoints']]
    print(table(['parameters', 'GB', 'first copy (s)', 'copy, blocking (s)', 'write, in the background (s)',
                 'steps slower meanwhile', 'cost of a save (s)', 'least interval for 3 % (s)'], rows))

if __name__ == '__main__': main()
