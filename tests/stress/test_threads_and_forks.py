"""Several threads at a time in the same and in different ops, and processes that are copies of one that has used gankern."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import gankern
from gankern import ops
from gankern._dispatch import OPS

THREADS, ROUNDS = 4, 6


def steps() -> list[tuple[str, Callable[[], list[Tensor]]]]:
    """One training step of each op, on inputs of its own: output and first derivatives of a 'check' sample."""
    made: list[tuple[str, Callable[[], list[Tensor]]]] = []
    for spec in OPS.values():
        sample = next(s for s in spec.samples if "check" in s.tags)

        def step(spec: Any = spec, sample: Any = sample) -> list[Tensor]:
            kwargs = sample.inputs(torch.float64)
            y = spec.public(**kwargs)
            leaves = [kwargs[name] for name in sample.differentiable]
            # Weighted, for of a normalised output the sum of squares is constant, and its gradient but rounding.
            loss = (y.square() * torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view(y.shape)).sum()
            grads = torch.autograd.grad(loss, leaves, allow_unused=True, create_graph=True)
            present = [g for g in grads if g is not None and g.requires_grad]
            second = torch.autograd.grad(sum(g.square().sum() for g in present), leaves, allow_unused=True) if present else ()
            return [t.detach() for t in (y, *grads, *second) if t is not None]

        made.append((spec.name, step))
    return made


def same(got: list[Tensor], want: list[Tensor]) -> bool:
    """Equal but for the order of sums, in float64: measured against the largest number of each tensor."""
    return len(got) == len(want) and all(
        a.shape == b.shape and float((a - b).abs().max()) <= 1e-9 * float(b.abs().max()) for a, b in zip(got, want, strict=True)
    )


def together(work: Callable[[int], None]) -> None:
    """``work(i)`` on several threads that start at once; their errors are raised here."""
    gate = threading.Barrier(THREADS)

    def run(i: int) -> None:
        gate.wait()
        work(i)

    with ThreadPoolExecutor(THREADS) as pool:
        for job in [pool.submit(run, i) for i in range(THREADS)]:
            job.result()


def test_every_op_on_several_threads_at_once() -> None:
    all_steps = steps()
    expected = {name: step() for name, step in all_steps}

    def work(i: int) -> None:
        for k in range(len(all_steps)):  # first all threads in one op, then each in another
            for name, step in (all_steps[k], all_steps[(k + 3 * i) % len(all_steps)]):
                assert same(step(), expected[name]), name

    together(work)


def test_forced_backends_on_several_threads() -> None:
    """The setting is process-wide: whichever holds, results are right, and after the last scope none holds."""
    all_steps = steps()
    expected = {name: step() for name, step in all_steps}

    def work(i: int) -> None:
        for k in range(ROUNDS * 2):
            name, step = all_steps[(k + i) % len(all_steps)]
            with gankern.use_backend("reference"):
                assert same(step(), expected[name]), name
            assert same(step(), expected[name]), name

    together(work)
    assert gankern._dispatch.forced_backend() is None


def test_scopes_without_weight_gradients_are_of_their_thread() -> None:
    x, w = torch.randn(1, 3, 8, 8, requires_grad=True), torch.randn(4, 3, 3, 3, requires_grad=True)

    def work(i: int) -> None:
        for k in range(ROUNDS * 5):
            without = (k + i) % 2 == 0
            with ops.no_weight_gradients(disable=without, this_thread=True):
                dx, dw = torch.autograd.grad(ops.conv2d(x, w).sum(), [x, w], allow_unused=True)
            assert dx is not None and (dw is None) == without

    together(work)
    assert torch.autograd.grad(ops.conv2d(x, w).sum(), w)[0].any()


def test_one_graph_differentiated_by_several_threads() -> None:
    x = torch.randn(2, 3, 16, 16, requires_grad=True)
    y = ops.instance_norm(ops.bias_act(x, act="lrelu"), act="swish")
    (expected,) = torch.autograd.grad(y.sum(), x, retain_graph=True)

    def work(i: int) -> None:
        for _ in range(ROUNDS):
            assert torch.equal(torch.autograd.grad(y.sum(), x, retain_graph=True)[0], expected)

    together(work)


# ---- processes -------------------------------------------------------------------------------------------------------------
class Augmented(Dataset[Tensor]):
    """Images that gankern's ops blur, warp and normalise: what a dataset of a GAN may do in its workers."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Tensor:
        generator = torch.Generator().manual_seed(index)
        x = torch.randn(1, 3, 16, 16, generator=generator, requires_grad=True)
        grid = torch.rand(1, 16, 16, 2, generator=generator) * 2 - 1
        y = ops.grid_sample(ops.upsample2d(x, torch.tensor([1.0, 3.0, 3.0, 1.0]), up=2), grid)
        y = ops.conv2d(ops.instance_norm(y, act="lrelu"), torch.ones(3, 3, 3, 3) / 9, padding=1)
        (g,) = torch.autograd.grad(y.square().sum(), x)
        return torch.cat([y, g])[:, 0].detach()


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_of_a_data_loader(start: str) -> None:
    # In a process of its own: PyTorch refuses autograd in a fork of one that has differentiated in several threads.
    code = f"import test_threads_and_forks; test_threads_and_forks.load('{start}')"
    run = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-4000:]


def load(start: str) -> None:
    """Load a dataset by workers, and by this process."""
    expected = [Augmented()[i] for i in range(8)]  # here first, so that a forked worker inherits used thread pools
    workers = DataLoader(Augmented(), batch_size=2, num_workers=2, multiprocessing_context=start, timeout=120)
    got = torch.cat(list(workers))
    assert torch.allclose(got, torch.stack(expected), rtol=1e-4, atol=1e-5)


FORKED = """
import os, sys, threading, torch, gankern
from gankern import ops

# Large enough for several threads: their pool exists when the process is copied, but its threads are not copied.
torch.set_num_threads(2)
x = torch.randn(8, 64, 64, 64)
want = ops.bias_act(x, act="swish")
holding = gankern.use_backend("reference")
holding.__enter__()
child = os.fork()
if child == 0:
    import faulthandler
    faulthandler.dump_traceback_later(100, exit=True)
    ok = gankern._dispatch.forced_backend() == "reference"  # what held at the fork holds in the copy
    holding.__exit__(None, None, None)
    torch.set_num_threads(1)  # as DataLoader's workers do
    ok = ok and torch.allclose(ops.bias_act(x, act="swish"), want, rtol=1e-5, atol=1e-6)
    ok = ok and bool(torch.isfinite(ops.modulated_conv2d(x[:1], torch.randn(8, 64, 3, 3), torch.ones(1, 64))).all())
    os._exit(0 if ok else 1)
status = os.waitpid(child, 0)[1]
holding.__exit__(None, None, None)
assert torch.equal(ops.bias_act(x, act="swish"), want)
sys.exit(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_fork_after_use() -> None:
    run = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=200, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
