"""One process or several: what torchrun started, DistributedDataParallel around whole steps, and what ranks tell each other."""

from __future__ import annotations

import gc
import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gankern import _workers


@dataclass(frozen=True)
class Workers:
    """The processes of a run, seen from one of them.

    Attributes:
        rank: this process, from 0.
        world: how many there are.
        device: where this one computes.
    """

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def share(self, total: int, what: str) -> int:
        """Each process's part of ``total``; a ValueError that names ``what`` if it does not divide."""
        if total % self.world:
            raise ValueError(f"{what} must be a multiple of the {self.world} processes, got {total}")
        return total // self.world

    def barrier(self) -> None:
        """Wait for all."""
        if self.world > 1:
            dist.barrier()

    def mean_(self, *tensors: Tensor) -> None:
        """Replace floating-point tensors by their means over all processes."""
        if self.world == 1:
            return
        for t in tensors:
            dist.all_reduce(t)
            t.div_(self.world)

    def gather(self, value: Any) -> list[Any]:
        """Every process's ``value``, in the order of ranks."""
        return [value] if self.world == 1 else _workers.gather(value)

    def any(self, flag: bool) -> bool:
        """Whether it is so in any process."""
        return any(self.gather(flag))

    def from_first(self, value: Any) -> Any:
        """Rank 0's ``value``."""
        return value if self.world == 1 else _workers.from_first(value)

    def first_does(self, action: Callable[[], Any]) -> Any:
        """Let rank 0 do something while the others wait; its result, or its error, is everyone's."""
        return action() if self.world == 1 else _workers.first_does(action)


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """'auto' is the process's own GPU, or the CPU where there is none.

    Raises:
        ValueError: a name that is none, or a device that is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device must be 'auto', 'cpu', 'cuda' or 'cuda:N', got {name!r}") from error
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device must be 'auto', 'cpu', 'cuda' or 'cuda:N', got {name!r}")
    if device.type == "cuda":
        count = torch.cuda.device_count()
        device = torch.device("cuda", local_rank if device.index is None else device.index)
        if device.index is None or device.index >= count:
            raise ValueError(f"device {name!r} is not there: this machine has {count} GPUs (as PyTorch sees them)")
    return device


@contextmanager
def workers(device: str = "auto") -> Iterator[Workers]:
    """The processes that torchrun started (RANK, WORLD_SIZE and LOCAL_RANK in the environment), or this one alone.

    gloo joins CPUs, NCCL joins GPUs. A process group that exists already is used and left alone.
    """
    world = dist.get_world_size() if dist.is_initialized() else int(os.environ.get("WORLD_SIZE", "1"))
    place = choose_device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if place.type == "cuda":
        torch.cuda.set_device(place)
    if world == 1:
        yield Workers(device=place)
        return
    own = not dist.is_initialized()
    if own:
        dist.init_process_group("nccl" if place.type == "cuda" else "gloo")
    try:
        yield Workers(dist.get_rank(), world, place)
    finally:
        # DistributedDataParallel holds its process group, and must not be the last to do so: it would end the group with
        # Python's lock held and wait for gloo's threads, they for the lock (PyTorch 2.13). What was let go goes now, also
        # in cycles.
        gc.collect()
        if own:
            dist.destroy_process_group()


def replicate(network: nn.Module, team: Workers, unused: bool = False, sync: bool = True) -> nn.Module:
    """``network`` in DistributedDataParallel, if there are several processes.

    Args:
        network: with the same weights on every process.
        team: the processes.
        unused: some parameters may get no gradient.
        sync: on GPUs, let batch norms see the whole batch. SyncBatchNorm has no second derivatives: not under a penalty.
    """
    if team.world == 1:
        return network
    if team.device.type == "cuda" and sync:
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    devices = [team.device] if team.device.type == "cuda" else None
    # Buffers (running statistics, power iterations) are each rank's own between checkpoints: several forward passes in one step
    # may not find them overwritten. The option has another name from torch 2.13 on.
    known = inspect.signature(DistributedDataParallel.__init__).parameters
    option: dict[str, Any] = {"forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers": False}
    return DistributedDataParallel(network, device_ids=devices, find_unused_parameters=unused, **option)


def bare(network: nn.Module) -> Any:
    """The network inside DistributedDataParallel, or itself."""
    return network.module if isinstance(network, DistributedDataParallel) else network


def backward(network: nn.Module, step: Callable[[], Tensor]) -> Tensor:
    """Run ``step``, which gives a loss of ``network``'s parameters, and its backward pass; gradients are means over processes.

    DistributedDataParallel prepares its reduction around one forward pass. A step of a GAN has several, and derivatives in
    between; so the whole step is that pass, and only the backward pass of its loss sees DDP's hooks.

    Args:
        network: a module, or one in DistributedDataParallel.
        step: a function without arguments that runs ``bare(network)`` as it likes, and gives a scalar.

    Returns:
        The loss, detached.
    """
    if not isinstance(network, DistributedDataParallel):
        loss = step()
        loss.backward()
        return loss.detach()
    inner = network.module
    forward = inner.__dict__.get("forward")

    def restore() -> None:
        inner.__dict__.pop("forward", None)
        if forward is not None:
            inner.__dict__["forward"] = forward

    def whole() -> Tensor:
        restore()
        return step()

    inner.__dict__["forward"] = whole
    try:
        loss = network()
    finally:
        restore()
    loss.backward()
    return loss.detach()


@torch.no_grad()
def average_buffers(network: nn.Module, team: Workers) -> None:
    """Make floating-point buffers (running statistics, averages) the means over all processes."""
    team.mean_(*(b for b in bare(network).buffers() if b.is_floating_point()))


__all__ = ["Workers", "average_buffers", "backward", "bare", "choose_device", "replicate", "workers"]
