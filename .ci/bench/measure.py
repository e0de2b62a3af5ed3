"""What the scripts of this folder share: workers that are measured in turn, the machine's roof, FLOPs and tables.

A speed on a shared machine changes by the minute. So whatever is compared runs in processes that stay alive and are
asked in turn, several times over, and the medians are compared. Nothing here asserts a speed."""
from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).resolve().parents[2]  # where the package is

def plain_environment(
    **changes: str,  # variables to set
) -> dict[str, str]:
    "The environment without anybody's settings of threads, so that each program has its own defaults."
    settings = ('OMP_', 'MKL_', 'GOMP_', 'KMP_', 'THP_MEM_')
    kept = {k: v for k, v in os.environ.items() if not k.startswith(settings)}
    path = os.pathsep.join([str(ROOT), *filter(None, [kept.get('PYTHONPATH')])])
    return {**kept, 'PYTHONPATH': path, **changes}

class Worker:
    "A process that measures something whenever it is asked."
    def __init__(self,
        script: str | Path,                 # is started with --worker and a task as JSON
        task: dict[str, Any],               # what it shall measure
        python: str = sys.executable,       # the interpreter
        env: dict[str, str] | None = None,  # variables to set
    ) -> None:
        command = [python, str(script), '--worker', json.dumps(task)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        env=plain_environment(**(env or {})))
        self.about: dict[str, Any] = self._answer()  # what it says of itself, once it is ready

    def _answer(self) -> Any:
        "Its next line. Raises RuntimeError if it has ended."
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line: raise RuntimeError(f"a worker ended with status {self.process.wait()}: its errors stand above")
        return json.loads(line)

    def ask(self,
        what: str,       # one of the things it measures
        seconds: float,  # for how long
    ) -> float:          # its rate
        "Let it work for a while."
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([what, seconds]) + '\n')
        self.process.stdin.flush()
        return float(self._answer())

    def close(self) -> None:
        "End it."
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None: pipe.close()

def open_channel() -> TextIO:
    "In a worker: where answers go. What anybody prints from now on goes to stderr instead."
    channel = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)
    return channel

def serve(
    channel: TextIO,                                  # from `open_channel`
    about: dict[str, Any],                            # what to say first
    measures: dict[str, Callable[[float], float]],    # by name: seconds -> rate
) -> None:
    "In a worker: answer until nobody asks any more."
    print(json.dumps(about), file=channel, flush=True)
    for line in sys.stdin:
        what, seconds = json.loads(line)
        print(json.dumps(measures[what](seconds)), file=channel, flush=True)

def repeat(
    step: Callable[[], Any],  # to be called again and again
    size: float,              # how much it does: images, operations
    seconds: float,           # for how long, and at least once
) -> float:                   # a rate per second
    "How much a step does in a second."
    start, done = time.perf_counter(), 0.
    while True:
        step()
        done += size
        passed = time.perf_counter() - start
        if passed >= seconds: return done / passed

def in_turn(
    workers: dict[str, Worker],  # by name
    what: str,                   # what each shall measure
    rounds: int,                 # how often each is asked
    seconds: float,              # for how long each time
) -> dict[str, list[float]]:     # rates by name
    "Ask each worker in turn, again and again."
    rates: dict[str, list[float]] = {name: [] for name in workers}
    for _ in range(rounds):
        for name, worker in workers.items():
            time.sleep(.3)  # threads of the former one may still spin, in wait for work
            rates[name].append(worker.ask(what, seconds))
    return rates

def summary(
    rates: Sequence[float],  # of several rounds
) -> dict[str, Any]:
    "Median, least and largest of several rounds, and all of them."
    return {'median': statistics.median(rates), 'least': min(rates), 'largest': max(rates), 'rounds': list(rates)}

def cpu_kinds() -> list[str]:
    "Which instructions for matrices this CPU has, as PyTorch sees it."
    known = {'AVX2': '_is_avx2_supported', 'AVX512': '_is_avx512_supported', 'AVX512-BF16': '_is_avx512_bf16_supported',
             'AMX': '_is_amx_tile_supported'}
    return [kind for kind, name in known.items() if getattr(torch.cpu, name, bool)()]

def machine() -> dict[str, Any]:
    "What the measurement ran on."
    found = {'processor': platform.processor() or platform.machine(), 'cores': os.cpu_count(), 'kinds': cpu_kinds(),
             'torch': torch.__version__, 'python': platform.python_version(), 'system': platform.system()}
    cpuinfo = Path('/proc/cpuinfo')
    if cpuinfo.is_file():
        names = [line.partition(':')[2].strip() for line in cpuinfo.read_text().splitlines()
                 if line.startswith('model name')]
        if names: found['processor'] = names[0]
    return found

def matrix_peak(
    device: str,         # cpu or cuda
    dtype: torch.dtype,  # of the matrices
    n: int,              # rows and columns
    seconds: float,      # how long to try
) -> float:              # operations per second
    "The rate of a large product of matrices with random entries: the roof of all networks."
    a = torch.randn(n, n, device=device, dtype=dtype)
    b = torch.randn(n, n, device=device, dtype=dtype)
    def product() -> None:
        torch.mm(a, b)
        if device != 'cpu': torch.cuda.synchronize()
    product()
    return repeat(product, 2 * n**3, seconds)

def count_flops(
    work: Callable[[], Any],  # runs a network, and its backward pass if that shall count
) -> int:                     # operations of all products, a multiplication and an addition counted as two
    "Operations by PyTorch's own counter. Attention is counted as the products that it is made of."
    with sdpa_kernel([SDPBackend.MATH]), FlopCounterMode(display=False) as counter: work()
    return counter.get_total_flops()

def flops_an_image(
    denoiser: nn.Module,    # on the device "meta", where nothing is computed
    shape: Iterable[int],   # (C,H,W)
) -> dict[str, float]:      # of the forward pass, and of forward and backward pass
    "Operations of a denoiser (x, sigma) for one image."
    def inputs() -> tuple[Tensor, Tensor]:
        return torch.empty(2, *shape, device='meta'), torch.ones(2, device='meta')
    def forward() -> None:
        with torch.no_grad(): denoiser(*inputs())
    def both() -> None: denoiser(*inputs()).square().mean().backward()
    denoiser.eval().requires_grad_(True)
    return {'forward': count_flops(forward) / 2, 'step': count_flops(both) / 2}

def parameters(
    model: nn.Module,  # a network
) -> int:
    "How many numbers it has learnt."
    return sum(p.numel() for p in model.parameters())

def table(
    head: Sequence[str],             # of the columns
    rows: Iterable[Sequence[Any]],   # cells; numbers are printed with three digits
) -> str:                            # Markdown
    "A table."
    def text(cell: Any) -> str:
        if isinstance(cell, float): return f'{cell:,.0f}' if abs(cell) >= 1000 else f'{cell:.3g}'
        return '–' if cell is None else str(cell)
    lines = [' | '.join(head), ' | '.join('---' for _ in head)]
    lines += [' | '.join(text(cell) for cell in row) for row in rows]
    return '\n'.join(f'| {line} |' for line in lines)

def write(
    file: str | None,       # where to, or None
    found: dict[str, Any],  # plain values
) -> None:
    "Write what was found as JSON, if anybody wants it."
    if file: Path(file).write_text(json.dumps(found, indent=1) + '\n')
