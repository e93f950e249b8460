"""StyleGAN3's layers: filter design against scipy, the published layer table, the layer by hand, and equivariance measured."""

from __future__ import annotations

import copy
import io
import itertools
import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gankern import nn

scipy_signal = pytest.importorskip("scipy.signal", reason="scipy is the outside oracle")
scipy_special = pytest.importorskip("scipy.special", reason="scipy is the outside oracle")


# ---- filters --------------------------------------------------------------------------------------------------------
DESIGNS = [
    (12, 2.0, 12.0, 32),
    (12, 20.159, 87.662, 256),
    (24, 5.04, 21.92, 64),
    (7, 0.2, 0.1, 1.0),
    (25, 0.1, 0.2, 1.0),
    (2, 1, 1, 4),
]


@pytest.mark.parametrize("taps, cutoff, width, rate", DESIGNS)
def test_separable_filter_against_scipy(taps: int, cutoff: float, width: float, rate: float) -> None:
    expected = scipy_signal.firwin(taps, cutoff, width=width, fs=rate)
    f = nn.lowpass_filter(taps, cutoff, width, rate)
    assert f is not None and f.dtype == torch.float32 and f.shape == (taps,)
    np.testing.assert_allclose(f.numpy(), expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("taps, cutoff, width, rate", DESIGNS)
def test_radial_filter_against_scipy(taps: int, cutoff: float, width: float, rate: float) -> None:
    place = (np.arange(taps) - (taps - 1) / 2) / rate
    r = np.maximum(np.hypot(*np.meshgrid(place, place)), 1e-9 / rate)
    window = np.kaiser(taps, scipy_signal.kaiser_beta(scipy_signal.kaiser_atten(taps, width / (rate / 2))))
    expected = scipy_special.j1(2 * np.pi * cutoff * r) / r * np.outer(window, window)
    f = nn.lowpass_filter(taps, cutoff, width, rate, radial=True)
    assert f is not None and f.dtype == torch.float32 and f.shape == (taps, taps)
    np.testing.assert_allclose(f.numpy(), expected / expected.sum(), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(f.rot90(), f, rtol=1e-6, atol=1e-9)


def response(f: Tensor, frequency: Tensor, angle: float) -> Tensor:
    """|H| of 2-D taps at frequencies in cycles per tap along a direction."""
    place = torch.arange(f.shape[-1], dtype=torch.float64)
    x, y = (torch.exp(-2j * math.pi * frequency[:, None] * d * place) for d in (math.cos(angle), math.sin(angle)))
    return torch.einsum("fy,yx,fx->f", y, f.double() + 0j, x).abs()


@pytest.mark.parametrize("taps, cutoff, width, rate", [(24, 0.1, 0.15, 1.0), (48, 0.15, 0.1, 1.0), (31, 4.0, 4.0, 32.0)])
def test_frequency_response(taps: int, cutoff: float, width: float, rate: float) -> None:
    attenuation = scipy_signal.kaiser_atten(taps, width / (rate / 2))
    ripple = 10 ** (-attenuation / 20)
    assert attenuation > 30
    line = nn.lowpass_filter(taps, cutoff, width, rate)
    round_ = nn.lowpass_filter(taps, cutoff, width, rate, radial=True)
    assert line is not None and round_ is not None
    square = line[:, None] * line
    bands = [torch.linspace(0, cutoff - width / 2, 200), torch.linspace(cutoff + width / 2, rate / 2, 200)]
    middle, passed, stopped = (f.double() / rate for f in (torch.tensor([cutoff]), *bands))
    # Kaiser's estimate holds for the sinc. Its window, made for one axis, leaves a jinc 20 dB more ripple and a lower edge.
    for f, angle, factor, edge in ((square, 0.0, 2, 0.01), *((round_, angle, 12, 0.07) for angle in (0.0, math.pi / 4, 1.0))):
        assert float((response(f, passed, angle) - 1).abs().max()) < factor * ripple
        assert float(response(f, stopped, angle).max()) < factor * ripple
        assert float(response(f, middle, angle)) == pytest.approx(0.5, abs=edge)
    # What radial is for: along the diagonal, the separable filter's cutoff lies higher by sqrt(2).
    diagonal = torch.tensor([cutoff * math.sqrt(2)], dtype=torch.float64) / rate
    assert float(response(square, diagonal, math.pi / 4)) == pytest.approx(0.25, abs=0.02)
    assert float(response(round_, diagonal, math.pi / 4)) < 0.1


def test_one_tap_is_no_filter() -> None:
    assert nn.lowpass_filter(1, 512, 100, 1024) is None, "an output layer's cutoff is the Nyquist frequency"


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ((0, 1, 1, 4), ValueError, "taps must be at least 1, got 0"),
        ((6.0, 1, 1, 4), TypeError, "taps must be an int, got 6.0"),
        ((6, 2, 1, 4), ValueError, r"cutoff must be above 0 and below half of sampling_rate 4\.0, got 2\.0"),
        ((6, -1, 1, 4), ValueError, "cutoff must be above 0"),
        ((6, 1, 0, 4), ValueError, "width must be above 0, got 0"),
        ((6, "1", 0, 4), TypeError, "cutoff must be a real number, got '1'"),
    ],
)
def test_filter_errors(arguments: tuple[Any, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match="lowpass_filter: " + message):
        nn.lowpass_filter(*arguments)


# ---- geometry -------------------------------------------------------------------------------------------------------
def test_published_layers() -> None:
    """Sizes and channels of the published StyleGAN3-T networks for 1024 and 256 pixels; R has them twice as wide."""
    layers = nn.layer_geometries(1024)
    assert [g.out_size for g in layers] == [36, 36, 52, 52, 84, 148, 148, 276, 276, 532, 1044, 1044, 1044, 1024, 1024]
    assert [g.out_channels for g in layers] == [512] * 7 + [323, 203, 128, 81, 51, 32, 32, 3]
    layers = nn.layer_geometries(256)
    assert [g.out_size for g in layers] == [36, 36, 36, 52, 52, 84, 84, 148, 148, 148, 276, 276, 276, 256, 256]
    assert [g.out_channels for g in layers] == [512] * 9 + [362, 256, 181, 128, 128, 3]
    assert [(g.up, g.down) for g in layers] == [(4 if i in (3, 5, 7, 10) else 2, 2) for i in range(14)] + [(1, 1)]
    assert [(g.up_taps, g.down_taps) for g in layers] == [(24 if g.up == 4 else 12, 12) for g in layers[:-1]] + [(1, 1)]
    wide = nn.layer_geometries(256, channel_base=65536, channel_max=1024, conv_kernel=1, radial=True)
    assert [g.out_channels for g in wide] == [1024] * 9 + [724, 512, 362, 256, 256, 3]
    assert [g.radial for g in wide] == [True] * 12 + [False] * 3


def test_geometry_by_the_paper() -> None:
    layers = nn.layer_geometries(512, num_layers=11, num_critical=3, first_cutoff=3, margin=7, lrelu_upsampling=4)
    assert len(layers) == 12
    for i, (g, following) in enumerate(itertools.pairwise(layers)):
        assert g.out_cutoff == pytest.approx(3 * (256 / 3) ** min(i / 8, 1))
        assert g.out_rate >= 2 * g.out_cutoff * (1 - 1e-9), "no signal above the Nyquist frequency"
        assert g.rate == 4 * max(g.in_rate, g.out_rate)
        assert g.rate == g.in_rate * g.up == g.out_rate * g.down
        assert (following.in_channels, following.in_size, following.in_rate) == (g.out_channels, g.out_size, g.out_rate)
        assert (following.in_cutoff, following.in_half_width) == (g.out_cutoff, g.out_half_width)
        assert g.out_cutoff + g.out_half_width >= g.out_rate / 2, "the transition band reaches up to the Nyquist frequency"
    assert layers[0].in_size == layers[0].out_size
    assert [g.conv_kernel for g in layers] == [3] * 11 + [1]


def test_geometry_errors() -> None:
    with pytest.raises(ValueError, match="resolution must be a power of two, got 96"):
        nn.layer_geometries(96)
    with pytest.raises(ValueError, match="num_critical must be 1 to num_layers - 1, got 14 with num_layers 14"):
        nn.layer_geometries(64, num_critical=14)
    with pytest.raises(ValueError, match="in_rate must divide the rate of the nonlinearity, 128, got 48"):
        nn.LayerGeometry(4, 4, 16, 16, 48, 64, 8, 8, 8, 8)


# ---- modules --------------------------------------------------------------------------------------------------------
def small(channels: int = 6, **changes: Any) -> list[nn.LayerGeometry]:
    """All kinds of layers, few pixels: rates 16 to 32, one layer up by 4."""
    return nn.layer_geometries(32, num_layers=5, margin=4, channel_base=24 * channels, channel_max=channels, **changes)


def modules() -> list[tuple[torch.nn.Module, tuple[Any, ...]]]:
    torch.manual_seed(0)
    made: list[tuple[torch.nn.Module, tuple[Any, ...]]] = []
    for g in (*small(), small(conv_kernel=1, radial=True)[1]):
        made.append((nn.AliasFreeLayer(g, 5), (torch.randn(2, g.in_channels, g.in_size, g.in_size), torch.randn(2, 5))))
    x = torch.randn(2, 6, 12, 8)
    taps = nn.lowpass_filter(12, 0.3, 0.4, 2.0)
    made += [
        (nn.FilteredLReLU(6, up_filter=taps, down_filter=taps), (x,)),
        (nn.FilteredLReLU(6, [2, 3], [4, 1], [1, 3, 3, 1], [[1, 2], [3, 4]], [1, 2, 0, -1], slope=0.1, clamp=1.5), (x,)),
        (nn.FilteredLReLU(6, 1, 1, bias=False, gain=1.0), (x,)),
    ]
    for module, _ in made:
        for name, parameter in module.named_parameters():
            if "bias" in name:
                torch.nn.init.normal_(parameter)
        if isinstance(module, nn.AliasFreeLayer):
            module.magnitude_ema.fill_(1.7)
        module.eval()
    return made


CASES = [pytest.param(m, a, id=f"{type(m).__name__}-{i}") for i, (m, a) in enumerate(modules())]


def by_hand(layer: nn.AliasFreeLayer, x: Tensor, w: Tensor) -> Tensor:
    """The layer of the paper in float64: one convolution a sample, zeros between pixels, PyTorch's correlation."""
    g = layer.geometry
    styles = w @ layer.affine.weight.double().t() / math.sqrt(w.shape[1]) + layer.affine.bias.double()
    images = []
    for image, style in zip(x, styles, strict=True):
        weight = layer.weight.double() * style[:, None, None]
        if g.torgb:
            weight = weight / math.sqrt(weight[0].numel())
        else:
            weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        weight = weight / layer.magnitude_ema.double().sqrt()
        images.append(F.conv2d(image[None], weight, padding=g.conv_kernel - 1))
    y = torch.cat(images) + layer.bias.double()[:, None, None]
    n, c, height, width = y.shape
    stuffed = y.new_zeros(n, c, height, g.up, width, g.up)
    stuffed[:, :, :, 0, :, 0] = y * g.up**2
    y = filtered(F.pad(stuffed.reshape(n, c, height * g.up, width * g.up), g.padding), layer.up_filter)
    if not g.torgb:
        y = torch.where(y > 0, y, 0.2 * y) * math.sqrt(2)
    return filtered(y.clamp(-256, 256), layer.down_filter)[:, :, :: g.down, :: g.down]


def filtered(y: Tensor, f: Tensor | None) -> Tensor:
    if f is None:
        return y
    taps = (f[:, None] * f if f.dim() == 1 else f).double()
    return F.conv2d(y.flatten(0, 1)[:, None], taps[None, None]).unflatten(0, y.shape[:2])[:, :, 0]  # symmetric: no flip


@pytest.mark.parametrize("module, arguments", [c for c in CASES if c.id.startswith("Alias")])
def test_layer_by_hand(module: nn.AliasFreeLayer, arguments: tuple[Tensor, Tensor]) -> None:
    g = module.geometry
    expected = by_hand(module, *(a.double() for a in arguments))
    assert expected.shape == (2, g.out_channels, g.out_size, g.out_size), "the padding makes the sizes come out exactly"
    torch.testing.assert_close(copy.deepcopy(module).double()(*(a.double() for a in arguments)), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(module(*arguments).double(), expected, rtol=1e-4, atol=1e-5)


def test_filters_of_the_layers() -> None:
    """R's filters are radial on the way down, but for critically sampled layers, and never on the way up."""
    for radial in (False, True):
        layers = [nn.AliasFreeLayer(g, 5) for g in small(radial=radial)]
        for i, layer in enumerate(layers[:-1]):
            g, f = layer.geometry, layer.down_filter
            assert layer.up_filter is not None and layer.up_filter.shape == (g.up_taps,)
            assert f is not None and f.shape == ((12, 12) if radial and i < 3 else (12,))
            expected = nn.lowpass_filter(12, g.out_cutoff, 2 * g.out_half_width, 2 * max(g.in_rate, g.out_rate), f.dim() == 2)
            torch.testing.assert_close(f, expected)
        assert layers[-1].up_filter is None and layers[-1].down_filter is None


def test_sizes_of_a_network() -> None:
    """Layer after layer at the published settings, T and R."""
    torch.manual_seed(2)
    for changes in ({}, {"conv_kernel": 1, "radial": True}):
        x = torch.randn(1, 4, 36, 36)
        with torch.no_grad():
            for g in nn.layer_geometries(64, channel_base=128, channel_max=4, **changes):
                x = nn.AliasFreeLayer(g, 5)(x, torch.randn(1, 5))
                assert x.shape == (1, g.out_channels, g.out_size, g.out_size)
        assert x.shape == (1, 3, 64, 64)


@pytest.mark.parametrize("module, arguments", CASES)
def test_equals_its_reference_with_the_same_weights(module: torch.nn.Module, arguments: tuple[Any, ...]) -> None:
    """Values, gradients, and gradients of a penalty on them."""
    module = copy.deepcopy(module).double()
    other = copy.deepcopy(module)
    for part in other.modules():
        if hasattr(part, "reference"):
            part.reference = True
    assert "reference=True" in repr(other) and "reference=True" not in repr(module)
    results = []
    for m in (module, other):
        given = [a.double().requires_grad_() for a in arguments]
        y = m(*given)
        (g,) = torch.autograd.grad(y.sin().sum(), given[-1], create_graph=True)
        found = torch.autograd.grad(g.square().sum().sqrt(), [given[0], *m.parameters()], allow_unused=True)
        results.append([y, g, *[torch.zeros(()) if h is None else h for h in found]])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("module, arguments", CASES)
def test_state_dict_pickle_and_deepcopy(module: torch.nn.Module, arguments: tuple[Any, ...]) -> None:
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(twin(*arguments), module(*arguments))
    fresh = copy.deepcopy(module)
    with torch.no_grad():
        for value in fresh.state_dict().values():
            value.zero_()
    buffer = io.BytesIO()
    torch.save(module.state_dict(), buffer)
    buffer.seek(0)
    fresh.load_state_dict(torch.load(buffer))
    assert torch.equal(fresh(*arguments), module(*arguments))
    assert not any("filter" in name for name in module.state_dict())
    assert ("magnitude_ema" in module.state_dict()) == isinstance(module, nn.AliasFreeLayer)


@pytest.mark.parametrize("module, arguments", CASES)
def test_autocast_and_channels_last(module: torch.nn.Module, arguments: tuple[Any, ...]) -> None:
    expected = module(*arguments).detach()
    last = [a.contiguous(memory_format=torch.channels_last) if i == 0 else a for i, a in enumerate(arguments)]
    y = copy.deepcopy(module).to(memory_format=torch.channels_last)(*last)
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = module(*arguments).detach()
    if isinstance(module, nn.AliasFreeLayer):
        assert half.dtype == torch.bfloat16
    assert float((half.float() - expected).norm() / expected.norm()) < 0.03


def test_half_keeps_taps_and_statistics_in_float32() -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        for original, _ in modules():
            module = copy.deepcopy(original).to(dtype)
            assert all(p.dtype == dtype for p in module.parameters())
            for name, buffer in original.named_buffers():
                assert buffer.dtype == torch.float32
                assert torch.equal(module.get_buffer(name), buffer) and module.get_buffer(name).dtype == torch.float32


def test_filtered_lrelu_keeps_the_centre_and_the_size() -> None:
    """With symmetric taps, mirrored images give mirrored results: no shift by a fraction of a pixel."""
    torch.manual_seed(3)
    x = torch.randn(1, 2, 8, 12, dtype=torch.float64)
    for up, down, nu, nd in ((2, 2, 12, 12), (4, 2, 24, 12), ([2, 4], [4, 2], 12, 24), (3, 1, 9, 1), (1, 1, 1, 1)):
        fu, fd = nn.lowpass_filter(nu, 0.3, 0.4, 4.0), nn.lowpass_filter(nd, 0.3, 0.4, 4.0)
        module = nn.FilteredLReLU(2, up, down, fu, fd, bias=False)
        y = module(x)
        (up_x, up_y), (down_x, down_y) = ((v, v) if isinstance(v, int) else v for v in (up, down))
        assert y.shape == (1, 2, 8 * up_y // down_y, 12 * up_x // down_x)
        torch.testing.assert_close(module(x.flip(3)), y.flip(3))
        torch.testing.assert_close(module(x.flip(2)), y.flip(2))


def test_magnitude_ema() -> None:
    torch.manual_seed(4)
    g = small()[0]
    layer = nn.AliasFreeLayer(g, 5, magnitude_ema_beta=0.75)
    w = torch.randn(2, 5)
    x = 3 * torch.randn(2, g.in_channels, g.in_size, g.in_size)
    square, ema = float(x.double().square().mean()), 1.0
    for _ in range(2):
        y = layer(x, w)
        ema = 0.75 * ema + 0.25 * square
        assert float(layer.magnitude_ema) == pytest.approx(ema, rel=1e-5)
    torch.testing.assert_close(layer(x, w, update_ema=False), y)
    layer.eval()
    torch.testing.assert_close(layer(x, w), y)
    assert float(layer.magnitude_ema) == pytest.approx(ema, rel=1e-5), "evaluation changes nothing"
    layer(x, w, update_ema=True)
    assert float(layer.magnitude_ema) == pytest.approx(0.75 * ema + 0.25 * square, rel=1e-5)
    # Squares of 300 are beyond float16.
    layer.magnitude_ema_beta = 0.0
    layer._observe(torch.full(x.shape, 300.0, dtype=torch.float16))
    assert float(layer.magnitude_ema) == pytest.approx(9e4, rel=1e-3)
    layer.train()
    assert layer(x[:0], w[:0]).shape == (0, g.out_channels, g.out_size, g.out_size)
    assert float(layer.magnitude_ema) == pytest.approx(9e4, rel=1e-3), "a batch of 0 says nothing"


def test_ema_in_training_does_not_disturb_gradients() -> None:
    """Two passes before one backward: the update of the buffer must not touch what the first pass saved."""
    torch.manual_seed(5)
    g = small()[1]
    layer = nn.AliasFreeLayer(g, 5)
    x, w = torch.randn(1, g.in_channels, g.in_size, g.in_size), torch.randn(1, 5, requires_grad=True)
    total = layer(x, w).square().mean() + layer(4 * x, w).square().mean()
    (d,) = torch.autograd.grad(total, w, create_graph=True)
    d.square().sum().backward()
    assert w.grad is not None and float(w.grad.abs().sum()) > 0


def test_the_scale_of_input_and_weights_does_not_matter() -> None:
    """Input magnitude and demodulation undo it; the output layer, which has no demodulation, keeps that of its weights."""
    torch.manual_seed(6)
    for g in small():
        layer = nn.AliasFreeLayer(g, 5, clamp=None, magnitude_ema_beta=0.0)
        x, w = torch.randn(2, g.in_channels, g.in_size, g.in_size), torch.randn(2, 5)
        y = layer(x, w)
        torch.testing.assert_close(layer(50 * x, w), y, rtol=1e-4, atol=1e-5)
        with torch.no_grad():
            layer.weight *= 3
        torch.testing.assert_close(layer(x, w), 3 * y if g.torgb else y, rtol=1e-4, atol=1e-5)


def test_output_layer_clamps_and_is_linear_before() -> None:
    torch.manual_seed(7)
    g = small()[-1]
    layer = nn.AliasFreeLayer(g, 5, clamp=0.5).eval()
    free = copy.deepcopy(layer)
    free.arguments["clamp"] = None
    x, w = torch.randn(2, g.in_channels, 32, 32), torch.randn(2, 5)
    torch.testing.assert_close(layer(x, w), free(x, w).clamp(-0.5, 0.5))
    assert float(free(x, w).detach().abs().max()) > 0.5
    torch.testing.assert_close(free(-2 * x, w), -2 * free(x, w))


def test_module_errors() -> None:
    g = small()[0]
    with pytest.raises(ValueError, match=r"AliasFreeLayer: x must be \[N, 6, 24, 24\], got \[1, 6, 24, 23\]"):
        nn.AliasFreeLayer(g, 5)(torch.randn(1, 6, 24, 23), torch.randn(1, 5))
    with pytest.raises(ValueError, match=r"AliasFreeLayer: magnitude_ema_beta must be 0 to 1, got 1\.5"):
        nn.AliasFreeLayer(g, 5, magnitude_ema_beta=1.5)
    with pytest.raises(ValueError, match="FilteredLReLU: up must be at least 1, got 0"):
        nn.FilteredLReLU(4, up=0)


# ---- equivariance ---------------------------------------------------------------------------------------------------
def band_limited(size: int, cutoff: float, channels: int = 4) -> Tensor:
    """A periodic random signal without frequencies above ``cutoff`` cycles per pixel."""
    f = torch.fft.fftfreq(size, dtype=torch.float64)
    noise = torch.randn(1, channels, size, size, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    x = torch.fft.ifft2(torch.fft.fft2(noise) * (torch.hypot(f[:, None], f) < cutoff)).real
    return x / x.std()


def translated(x: Tensor, dx: float, dy: float) -> Tensor:
    """A periodic signal moved by a fraction of a pixel: exact for what the rate can hold."""
    f = torch.fft.fftfreq(x.shape[-1], dtype=torch.float64)
    return torch.fft.ifft2(torch.fft.fft2(x) * torch.exp(-2j * math.pi * (f[:, None] * dy + f * dx))).real


def periodically(layer: Callable[[Tensor], Tensor], x: Tensor, margin: int = 16) -> Tensor:
    """A layer that pads with zeros, applied to a periodic signal: no borders."""
    return layer(F.pad(x, (margin,) * 4, mode="circular"))[:, :, margin:-margin, margin:-margin]


def equivariance_db(layer: Callable[[Tensor], Tensor], x: Tensor, dx: float, dy: float) -> float:
    """EQ-T of Karras et al. 2021: PSNR between moving the input and moving the output; at the same rate."""
    expected = translated(periodically(layer, x), dx, dy)
    error = periodically(layer, translated(x, dx, dy)) - expected
    return 10 * math.log10(float((expected.max() - expected.min()) ** 2 / error.square().mean()))


def plain(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2) * math.sqrt(2)


@pytest.mark.parametrize("radial", [False, True])
def test_translation_equivariance(radial: bool) -> None:
    """A fraction of a pixel costs the plain leaky ReLU its aliases, 29 dB; filters leave 57 dB (measured)."""
    x = band_limited(64, 0.4)
    fu = nn.lowpass_filter(12, 0.3, 0.4, 2.0)
    fd = nn.lowpass_filter(12, 0.3, 0.4, 2.0, radial=radial)
    layer = nn.FilteredLReLU(4, up_filter=fu, down_filter=fd, bias=False)
    for dx, dy in ((0.25, 0.7), (0.4, -0.3)):
        assert equivariance_db(layer, x, dx, dy) > 50
        assert equivariance_db(plain, x, dx, dy) < 32
    assert equivariance_db(layer, x, 3, -5) > 200
    assert equivariance_db(plain, x, 3, -5) > 200


def test_half_a_pixel_up_is_a_pixel() -> None:
    """At twice the rate half a pixel is a whole one: the nonlinearity commutes with it, only the filters' stopbands show."""
    x = band_limited(64, 0.3)
    fu = nn.lowpass_filter(24, 0.35, 0.3, 2.0)
    assert equivariance_db(nn.FilteredLReLU(4, up_filter=fu, down_filter=fu, bias=False), x, 0.5, 0.5) > 85


def test_rotation_equivariance() -> None:
    """By 90 degrees, exact: symmetric filters, concentric padding, and a convolution of 1x1, as R's layers have."""
    torch.manual_seed(9)
    for g in small(conv_kernel=1, radial=True):
        layer = nn.AliasFreeLayer(g, 5).eval().double()
        x, w = torch.randn(1, g.in_channels, g.in_size, g.in_size, dtype=torch.float64), torch.randn(1, 5, dtype=torch.float64)
        torch.testing.assert_close(layer(x.rot90(1, (2, 3)), w), layer(x, w).rot90(1, (2, 3)))
