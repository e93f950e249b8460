"""Convolutions of NCHW images in channels_last: faster where configs.py says so, and not to be seen from outside."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch

import gankern
from gankern.ops import conv_transpose2d

configs = importlib.import_module("gankern.ops.conv2d.configs")


@pytest.mark.skipif(not gankern.NATIVE.cpu, reason="no native CPU kernels")
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
def test_channels_last_inside_is_not_seen_outside(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where NCHW images are turned for the convolution, outputs and gradients are NCHW and the same, to second order."""
    turned: list[tuple[str, bool]] = []
    decide = configs.channels_last_inside

    def seen(kind: str, *args: Any) -> bool:
        turned.append((kind, decide(kind, *args)))
        return turned[-1][1]

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 32, 15, 16, generator=generator).to(dtype).requires_grad_()
    w = (torch.randn(32, 40, 3, 3, generator=generator) / 20).to(dtype).requires_grad_()
    results = []
    for decision in (seen, lambda *_: False):
        monkeypatch.setattr(configs, "channels_last_inside", decision)
        y = conv_transpose2d(x, w, stride=2, padding=1)
        first = torch.autograd.grad(y.float().square().sum(), (x, w), create_graph=True)
        second = torch.autograd.grad(sum(g.float().square().sum() for g in first), (x, w))
        results.append([y, *first, *second])
    assert ("transpose", True) in turned, "otherwise nothing was tested"
    for mine, plain in zip(*results, strict=True):
        assert mine.is_contiguous()
        limit = 1e-5 if dtype == torch.float32 else 2e-2
        torch.testing.assert_close(mine, plain, rtol=limit, atol=limit * float(plain.detach().abs().max()))
