"""Transposed convolutions to few channels: matrix products instead of oneDNN, in either direction and to second order."""

from __future__ import annotations

import importlib
from collections import Counter
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gankern.ops import conv2d, conv_transpose2d

backends = importlib.import_module("gankern.ops.conv2d.backends")
configs = importlib.import_module("gankern.ops.conv2d.configs")


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize("geometry", [(1, 1, 1), (2, 1, 1), ([2, 1], [0, 2], [1, 2]), (3, 2, 1)])
def test_few_channels_are_matrix_products(
    geometry: Any, second: bool, layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A critic's first layer, whose images' gradient is a convolution to 3 channels, and a generator's last one."""
    calls = Counter[str]()
    real = backends._aten.slow_conv_transpose2d

    def counted(*args: Any) -> Tensor:
        calls["products"] += 1
        return real(*args)

    monkeypatch.setattr(backends._aten, "slow_conv_transpose2d", counted)
    stride, padding, dilation = geometry
    for transposed in (False, True):
        results = []
        for dtype in (torch.float32, torch.float64):
            torch.manual_seed(0)
            shapes = [(2, 32, 5, 6), (32, 3, 4, 3), (3,)] if transposed else [(2, 3, 12, 11), (32, 3, 4, 3), (32,)]
            leaves = [torch.randn(s).to(dtype) / 4 for s in shapes]
            leaves[0] = leaves[0].to(memory_format=layout)
            leaves = [t.requires_grad_() for t in leaves]
            x, w, b = leaves
            calls.clear()
            if transposed:
                y = (conv_transpose2d if dtype == torch.float32 else F.conv_transpose2d)(
                    x, w, b, stride, padding, 0, 1, dilation
                )
            else:
                y = (conv2d if dtype == torch.float32 else F.conv2d)(x, w, b, stride, padding, dilation)
            found = [y, *torch.autograd.grad(y.sin().sum(), leaves, create_graph=second)]
            if second:
                found += torch.autograd.grad(sum((g * g).sum() for g in found[1:]), leaves)
            assert calls["products"] >= 1 if dtype == torch.float32 else not calls
            results.append(found)
        for mine, theirs in zip(*results, strict=True):
            torch.testing.assert_close(mine.double(), theirs, rtol=1e-4, atol=1e-5 * float(theirs.detach().abs().max()))
        assert results[0][0].is_contiguous(memory_format=layout)


@pytest.mark.parametrize("change", [{"x": torch.float64}, {"w": (32, 3, 1, 1)}, {"w": (32, 5, 3, 3)}, {"w": (16, 3, 3, 3)}])
def test_other_convolutions_are_not_matrix_products(change: dict[str, Any]) -> None:
    dtype, size = change.get("x", torch.float32), change.get("w", (32, 3, 3, 3))
    x = torch.empty(2, size[0], 4, 4, dtype=dtype)
    assert not configs.by_products(x, torch.empty(size, dtype=dtype), 1)
    x, w = torch.empty(2, 32, 4, 4), torch.empty(32, 3, 3, 3)
    assert configs.by_products(x, w, 1) and not configs.by_products(x, w, 2)
    assert not configs.by_products(x[:0], w, 1) and not configs.by_products(x.to("meta"), w, 1)
