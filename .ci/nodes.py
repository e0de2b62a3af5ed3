"""Train on two nodes, kill each of them once, and compare with what nobody disturbed.
usage: python .ci/nodes.py [--steps 30] [--dropout 0 0.13] [--within 1e-5] [--distil]

Each "node" is a torchrun of its own with one process; the two meet through a c10d rendezvous on the loopback, as two
machines would. One node is killed with SIGKILL in the middle, what is left of the other is ended, as srun does it, and
the same command starts both again: first the node that keeps the files dies, then the other one. The weights at the end
must be those of two undisturbed nodes and those of one process. Prints a table. Exit code 1: they differ."""
import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

BATCH = 32
PATIENCE = 180  # seconds that a start, a step or an end may take on a busy machine

def config_of(run: Path, steps: int, dropout: float, distil: bool) -> Any:
    "What is trained: digits, by a small network that is saved after each step, or by the shipped one's pupil."
    from edm_nbdev.config import TrainConfig, distillation
    from edm_nbdev.models import load_model
    how: Any = dict(dropout=dropout, batch_size=BATCH, images=BATCH * steps, warmup_images=5 * BATCH, device='cpu',
                    threads=1, precision='float32', run=str(run), checkpoint_seconds=0.)
    if not distil: return TrainConfig(width=16, **how)
    return distillation(load_model('digits', 'cpu').config, 'digits', halve_images=5 * BATCH, **how)

def work(folder: Path, run: str, steps: int, dropout: float, distil: bool) -> None:
    "What each process does: train, and after each step say where it is and who it is."
    from edm_nbdev.devices import leave_together
    from edm_nbdev.loop import train
    rank = os.environ.get('RANK', '0')
    for step in train(config_of(folder/run, steps, dropout, distil)):
        # numbers of the step, of this process and of its torchrun, the agent
        text = f'{step.step} {os.getpid()} {os.getppid()}'
        part = folder/f'{run}-{rank}.part'
        part.write_text(text)
        part.replace(folder/f'{run}-{rank}')
        time.sleep(.02)                                 # so that a kill comes in the middle
    leave_together()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)                                         # gloo's threads may abort an ordinary exit

def where(folder: Path, run: str, rank: int) -> list[int]:
    "The step, the process and the agent of a rank; zeros before its first step."
    try: return [int(number) for number in (folder/f'{run}-{rank}').read_text().split()]
    except FileNotFoundError: return [0, 0, 0]

def free_port() -> int:
    "A port that nobody uses now."
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]

class Node:
    "A torchrun with one process, or without torchrun one process alone."
    def __init__(self, folder: Path, name: str, arguments: list[str], port: int | None) -> None:
        self.log = folder/f'{name}.log'
        launcher = [] if port is None else [
            '-m', 'torch.distributed.run', '--nnodes', '2', '--nproc_per_node', '1', '--rdzv_backend', 'c10d',
            '--rdzv_endpoint', f'127.0.0.1:{port}', '--rdzv_id', str(port), '--local_addr', '127.0.0.1']
        unset = ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR', 'MASTER_PORT')
        environment = {k: v for k, v in os.environ.items() if k not in unset}
        with open(self.log, 'ab') as log:
            self.process = subprocess.Popen(
                [sys.executable, *launcher, __file__, *arguments], stdout=log, stderr=subprocess.STDOUT,
                env={**environment, 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': ''}, start_new_session=True)

    def wait(self) -> int:
        "Its exit code. Raises TimeoutExpired if it does not end."
        return self.process.wait(PATIENCE)

    def end(self) -> None:
        "Ask it to end, as srun asks what is left of a job, and insist after a while."
        self.process.terminate()
        try: self.process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

def start(folder: Path, run: str, options: list[str]) -> list[Node]:
    "Two nodes that share a run."
    port, arguments = free_port(), ['--worker', str(folder), '--name', run, *options]
    return [Node(folder, f'{run}-node{i}', arguments, port) for i in (0, 1)]

def finish(nodes: list[Node]) -> None:
    "Wait for nodes. Exits with their logs if one fails."
    for node in nodes:
        if node.wait() == 0: continue
        for other in nodes: other.end()
        sys.exit(f'{node.log.name}:\n{node.log.read_text()[-4000:]}')

def kill(folder: Path, run: str, rank: int, step: int, nodes: list[Node]) -> str:
    "Kill the node of a rank when it has taken so many steps, and end the other; says when."
    deadline = time.monotonic() + PATIENCE
    while where(folder, run, rank)[0] < step:
        if time.monotonic() > deadline or any(node.process.poll() for node in nodes):
            for node in nodes: node.end()
            sys.exit(f'{run} does not reach step {step}:\n' + '\n'.join(n.log.read_text()[-3000:] for n in nodes))
        time.sleep(.005)
    at, process, agent = where(folder, run, rank)
    for number in (agent, process): os.kill(number, signal.SIGKILL)    # a machine that dies asks nobody
    for node in nodes: node.end()
    return f'{rank} at step {at}'

def weights(folder: Path, run: str) -> dict:
    "All networks of a run that has ended, as one vector each: the one in training, and its averages."
    import torch

    from edm_nbdev.runs import read_state
    state = read_state(folder/run)
    networks = {name: value for name, value in state.items() if name == 'model' or name.startswith('ema')}
    return {name: torch.cat([v.flatten() for v in network.values()]) for name, network in networks.items()}

def at_start(dropout: float, distil: bool) -> Any:
    "The weights before the first step."
    import torch

    from edm_nbdev.loop import Training
    model = Training(config_of(Path(), 1, dropout, distil)).denoiser
    return torch.cat([v.flatten() for v in model.state_dict().values()])

def difference(a: dict, b: dict, start: Any) -> tuple[float, float]:
    "How far networks of the same name are apart at most, as a share of their length, and of how far they have moved."
    apart = {name: float((a[name] - b[name]).norm()) for name in b}
    return (max(apart[name] / float(b[name].norm()) for name in b),
            max(apart[name] / float((b[name] - start).norm()) for name in b))

def compare(folder: Path, steps: int, dropout: float, distil: bool) -> list[tuple[str, str, tuple[float, float]]]:
    "What is compared, what was killed, and the difference."
    options = ['--steps', str(steps), '--dropout', str(dropout), *['--distil'] * distil]
    arguments = ['--worker', str(folder), '--name', 'one', *options]
    finish([Node(folder, 'one', arguments, None)])
    finish(start(folder, 'two', options))
    killed = []
    for rank, step in ((0, steps // 3), (1, 2 * steps // 3)):
        for file in (folder/'killed-0', folder/'killed-1'): file.unlink(missing_ok=True)
        killed.append(kill(folder, 'killed', rank, step, start(folder, 'killed', options)))
    finish(start(folder, 'killed', options))
    one, two, after = (weights(folder, run) for run in ('one', 'two', 'killed'))
    before, who = at_start(dropout, distil), ', '.join(killed)
    return [('two nodes, and one process', '', difference(two, one, before)),
            ('killed, and two nodes', who, difference(after, two, before)),
            ('killed, and one process', who, difference(after, one, before))]

def main() -> None:
    "Compare for each dropout, and print the table."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--steps', type=int, default=30, help='steps of each run (30)')
    parser.add_argument('--dropout', type=float, nargs='+', default=[0., .13], help='one comparison for each (0 0.13)')
    parser.add_argument('--within', type=float, default=1e-5,
                        help='relative difference of the weights that is allowed (1e-5); 100 times that of their way')
    parser.add_argument('--distil', action='store_true', help='distil the shipped digits model')
    parser.add_argument('--keep', type=Path, help='folder to keep runs and logs in')
    parser.add_argument('--worker', type=Path, help=argparse.SUPPRESS)
    parser.add_argument('--name', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker: work(args.worker, args.name, args.steps, args.dropout[0], args.distil)
    wrong = 0
    print('| dropout | compared | killed: rank | difference of weights | of their way |\n|---|---|---|---|---|')
    for dropout in args.dropout:
        folder = Path(tempfile.mkdtemp()) if args.keep is None else args.keep/f'dropout-{dropout}'
        folder.mkdir(parents=True, exist_ok=True)
        try: rows = compare(folder, args.steps, dropout, args.distil)
        finally:
            if args.keep is None: shutil.rmtree(folder, ignore_errors=True)
        for what, killed, off in rows:
            print(f'| {dropout} | {what} | {killed} | {off[0]:.1e} | {off[1]:.1e} |', flush=True)
            wrong += not (off[0] <= args.within and off[1] <= 100 * args.within)
    sys.exit(f'{wrong} differences are above {args.within}' if wrong else 0)

if __name__ == '__main__': main()
