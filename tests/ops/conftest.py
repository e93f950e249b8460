"""Tests of an operator are about its kernels and derivatives: their images are small to be quick, not to be taken for small."""

from __future__ import annotations

import pytest

from gankern import _dispatch


@pytest.fixture(autouse=True)
def _no_image_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_dispatch, "SMALL", 0)
