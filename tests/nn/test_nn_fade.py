from __future__ import annotations

import copy

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from gankern import nn


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_blends(alpha: float, reference: bool) -> None:
    torch.manual_seed(0)
    old, new = torch.randn(2, 3, 4, 4).double(), torch.randn(2, 3, 4, 4).double()
    fade = nn.FadeIn(alpha, reference=reference).double()
    y = fade(old, new)
    torch.testing.assert_close(y, (1 - alpha) * old + alpha * new, rtol=0, atol=1e-7)  # alpha is a float32
    if alpha in (0, 1):
        assert torch.equal(y, new if alpha else old)
    assert fade.fading == (alpha < 1)


def test_gradients_of_both() -> None:
    old, new = (torch.randn(2, 3, 4, 4).double().requires_grad_() for _ in range(2))
    fade = nn.FadeIn(0.25).double()
    assert torch.autograd.gradcheck(fade, (old, new))
    assert torch.autograd.gradgradcheck(fade, (old, new))


def test_alpha_is_set_saved_and_copied() -> None:
    fade = nn.FadeIn(0.0)
    fade.set_alpha(0.75)
    assert fade.alpha == 0.75 and fade.fading
    other = nn.FadeIn()
    other.load_state_dict(fade.state_dict())
    assert other.alpha == 0.75 and other.fading
    twin = copy.deepcopy(fade)
    fade.set_alpha(1)
    assert not fade.fading and twin.alpha == 0.75 and twin.fading
    other.load_state_dict(fade.state_dict())
    assert not other.fading
    x = torch.randn(1, 1, 2, 2)
    assert fade(None, x) is x, "old images are not asked for"


def test_a_new_alpha_compiles_nothing_anew() -> None:
    counter = CompileCounter()
    fade = nn.FadeIn(0.0)
    compiled = torch.compile(fade, fullgraph=True, backend=counter)
    old, new = torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)
    for alpha in (0.125, 0.25, 0.5):
        fade.set_alpha(alpha)
        assert torch.equal(compiled(old, new), torch.full_like(new, alpha))
    assert counter.frame_count == 1


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match=r"alpha must be from 0 to 1, got 1\.5"):
        nn.FadeIn(1.5)
    fade = nn.FadeIn(0.5)
    with pytest.raises(ValueError, match="alpha must be finite"):
        fade.set_alpha(float("nan"))
    with pytest.raises(TypeError, match="alpha must be a real number, got '1'"):
        fade.set_alpha("1")  # type: ignore[arg-type]
    assert fade.alpha == 0.5 and fade.fading
    with pytest.raises(ValueError, match=r"old must have the shape of new, \[1, 3, 4, 4\], while alpha is below 1, got None"):
        fade(None, torch.zeros(1, 3, 4, 4))
    with pytest.raises(ValueError, match=r"got \[1, 3, 2, 2\]"):
        fade(torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 4, 4))
