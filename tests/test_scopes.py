"""Scopes leave modes and random numbers as they were, errors or not; a library that is missing is named."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from gankern._optional import TRAIN, optional
from gankern._scopes import evaluating, own_random


def test_each_part_has_its_own_mode_again() -> None:
    module = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout().eval(), nn.Dropout()))
    module[1].training = False  # but one of its parts trains
    before = [part.training for part in module.modules()]
    with evaluating(module):
        assert not any(part.training for part in module.modules())
    assert [part.training for part in module.modules()] == before == [True, True, False, False, True]
    with pytest.raises(KeyError), evaluating(module):
        raise KeyError
    assert [part.training for part in module.modules()] == before


def test_random_numbers_go_on_as_if_nothing_had_been() -> None:
    torch.manual_seed(3)
    right = torch.rand(4)
    torch.manual_seed(3)
    drawn = []
    for _ in range(2):
        with own_random(7, torch.device("cpu")):
            drawn.append(torch.rand(4))
    with pytest.raises(KeyError), own_random(8):
        torch.rand(1)
        raise KeyError
    assert torch.equal(torch.rand(4), right)
    assert torch.equal(*drawn) and torch.equal(drawn[0], torch.rand(4, generator=torch.Generator().manual_seed(7)))


def test_a_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert optional("math", "not seen").pi > 3
    monkeypatch.setitem(sys.modules, "drawing", None)
    with pytest.raises(ImportError) as caught:
        optional("drawing", f"pictures need drawing ({{error}}): {TRAIN} drawing")
    text = str(caught.value)
    assert text.startswith("pictures need drawing (") and "drawing" in str(caught.value.__cause__)
    assert str(caught.value.__cause__) in text and text.endswith('): pip install "gankern[train]", or pip install drawing')
