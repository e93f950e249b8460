"""No step through gankern's ops leaves memory behind: tensors, graphs or the process's own."""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gankern import ops

STATM = Path("/proc/self/statm")


def training_step() -> Callable[[], None]:
    """A small step through every op: a generator's path, a critic's, and two penalties with their second derivatives."""
    torch.manual_seed(0)
    f = ops.setup_filter([1, 3, 3, 1])

    def parameter(*shape: int) -> Tensor:
        return torch.randn(*shape).requires_grad_()

    weight, styles, bias, noise = parameter(4, 3, 3, 3), parameter(2, 3), parameter(4), parameter(2, 1, 16, 16)
    critic, transposed, last, scale = parameter(4, 4, 3, 3), parameter(4, 4, 3, 3), parameter(4, 4, 3, 3), parameter(2, 4)
    parameters = [weight, styles, bias, noise, critic, transposed, last, scale]
    u, v = torch.randn(4), torch.randn(36)

    def step() -> None:
        z = ops.pixel_norm(torch.randn(2, 3, 8, 8))
        fake = ops.modulated_conv2d(z, weight, styles, noise=noise, up=2, padding=1, resample_filter=f, bias=bias, act="lrelu")
        fake = ops.filtered_lrelu(fake, f, f, bias, up=2, down=2, padding=3)
        fake = ops.adain(fake, scale, scale, pre_bias=bias, pre_act="lrelu")
        fake = ops.modulate(fake, scale, noise=noise, b=bias, act="swish")
        fake = ops.adain_from_features(fake, torch.randn(2, 4, 8, 8))
        mixed = ops.interpolate(torch.randn(2, 4, 16, 16).requires_grad_(), fake, torch.rand(2))
        grid = (torch.rand(2, 16, 16, 2) * 2 - 1).requires_grad_()
        h = ops.grid_sample(mixed, grid)
        h = ops.conv2d(h, ops.spectral_norm(critic, u, v), bias, padding=1)
        h = ops.conv_transpose2d(ops.instance_norm(h, act="relu"), transposed, stride=2, padding=1, output_padding=1)
        h = ops.downsample2d(ops.filter2d(ops.upsample2d(h, f), f), f, down=4)
        h = ops.conv2d_resample(ops.bias_act(h, bias, act="lrelu", clamp=256), last, f, down=2, padding=1)
        h = ops.minibatch_stddev(ops.upfirdn2d(h, f, padding=2))
        with ops.no_weight_gradients(this_thread=True):
            (g,) = torch.autograd.grad(h.sum(), mixed, create_graph=True)
        loss = h.square().mean() + ops.grad_norm_penalty(g, 1.0, 10.0).mean()
        grads = torch.autograd.grad(loss, parameters, allow_unused=True)
        assert any(g is not None for g in grads)
        with torch.no_grad():
            images = torch.randn(2, 4, 8, 8)
            ops.modulate_(ops.bias_act_(images, bias, act="lrelu"), scale, act="tanh")
            ops.modulated_conv2d(z, weight, styles, padding=1, act="lrelu")
            with suppress(ValueError):
                ops.bias_act(images, torch.zeros(3))  # an error keeps nothing alive either

    return step


def tensors() -> int:
    # What other tests of this process have left: finalisers may set more free than one collection finds.
    for _ in range(10):
        if not gc.collect():
            break
    return sum(issubclass(type(o), Tensor) for o in gc.get_objects())


def resident() -> int:
    return int(STATM.read_text().split()[1]) * 4096


def grows(steps: int, warm: int) -> tuple[int, float]:
    """(tensors more, bytes a step more) between the ends of two runs."""
    step = training_step()
    for _ in range(warm):
        step()
    before, memory = tensors(), resident() if STATM.exists() else 0
    for _ in range(steps):
        step()
    return tensors() - before, (resident() - memory) / steps if STATM.exists() else 0.0


def test_a_hundred_steps() -> None:
    more, bytes_a_step = grows(100, 30)
    assert more == 0, f"{more} tensors more after 100 steps"
    # A step makes some 200 images of 2 to 8 KB. 100 steps let the allocator still grow a little: 5 KB each in a new process.
    assert bytes_a_step < 12 * 1024, f"{bytes_a_step:.0f} bytes a step"


@pytest.mark.slow
def test_a_thousand_steps() -> None:
    more, bytes_a_step = grows(1000, 50)
    assert more == 0, f"{more} tensors more after 1000 steps"
    assert bytes_a_step < 2048, f"{bytes_a_step:.0f} bytes a step"


def test_a_leak_is_seen() -> None:
    kept = []
    before = tensors()
    for _ in range(5):
        kept.append(torch.randn(3))
    assert tensors() == before + 5
