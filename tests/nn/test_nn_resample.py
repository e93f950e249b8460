from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch

from gankern import nn, ops

MODULES = [
    nn.Upsample2d(),
    nn.Downsample2d(),
    nn.Blur(),
    nn.Upsample2d(3, [1, 2, 1], padding=1, gain=0.5),
    nn.Downsample2d([2, 1]),
]


@pytest.mark.parametrize("module", MODULES, ids=repr)
def test_equals_its_reference(module: torch.nn.Module) -> None:
    x = torch.randn(2, 3, 12, 8, dtype=torch.float64)
    other = copy.deepcopy(module)
    other.reference = True
    torch.testing.assert_close(module(x), other(x))
    assert "reference=True" in repr(other)


def test_modules_are_the_functions() -> None:
    x = torch.randn(1, 2, 8, 6)
    f = ops.setup_filter([1, 3, 3, 1])
    torch.testing.assert_close(nn.Upsample2d()(x), ops.upsample2d(x, f))
    torch.testing.assert_close(nn.Downsample2d()(x), ops.downsample2d(x, f))
    torch.testing.assert_close(nn.Blur()(x), ops.filter2d(x, f))


def test_sizes() -> None:
    x = torch.randn(2, 3, 12, 8)
    assert nn.Upsample2d([3, 2])(x).shape == (2, 3, 24, 24)
    assert nn.Downsample2d(4)(x).shape == (2, 3, 3, 2)
    assert nn.Blur(padding=[1, 2])(x).shape == (2, 3, 16, 10)


@pytest.mark.parametrize("module", MODULES, ids=repr)
def test_pickle_and_deepcopy(module: torch.nn.Module) -> None:
    x = torch.randn(1, 1, 8, 8)
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(twin(x), module(x))
    buffer = io.BytesIO()
    torch.save(module.state_dict(), buffer)
    buffer.seek(0)
    module.load_state_dict(torch.load(buffer))
    assert not module.state_dict()


def test_half_keeps_the_taps_in_float32() -> None:
    module = nn.Upsample2d(taps=[0.1, 0.7, 0.2]).half()
    assert module.filter.dtype == torch.float32
    assert module(torch.randn(1, 1, 4, 4).half()).dtype == torch.float16
    assert torch.equal(module.filter, nn.Upsample2d(taps=[0.1, 0.7, 0.2]).filter)


def test_bad_factor_is_named() -> None:
    with pytest.raises(ValueError, match="up must be at least 1, got 0"):
        nn.Upsample2d(up=0)
