"""StyleGAN3: published counts and tables, the input by hand, other canvases and windows of them, equivariance in dB."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from network_checks import count
from torch import Tensor, nn

from gankern import losses, models
from gankern.models import StyleGAN3Config, StyleGAN3Generator, _canvas, transform_matrix
from gankern.models._fourier import FourierInput
from gankern.models.equivariance import resampled, rotation_equivariance, shifted, translation_equivariance

TINY = models.FAMILIES["stylegan3"].tiny
# All kinds of layers of the published networks, in few channels: rates 16 to 32, factors 2 and 4, two critical layers.
SMALL = StyleGAN3Config(
    32, z_dim=12, w_dim=12, channel_base=512, channel_max=12, num_layers=6, num_fp16_res=0, discriminator_channel_base=128,
    discriminator_channel_max=8,
)  # fmt: skip
ROTATING = SMALL.replace(conv_kernel=1, radial=True)
KINDS = pytest.mark.parametrize("config", [SMALL, ROTATING], ids=["T", "R"])


def generator(config: StyleGAN3Config, **changes: Any) -> StyleGAN3Generator:
    """In float64 and evaluation, with an input that w moves, and biases."""
    torch.manual_seed(0)
    made = StyleGAN3Generator(config.replace(**changes)).double().eval()
    with torch.no_grad():
        made.synthesis.input.affine.weight.normal_(0, 0.3)
        for layer in made.synthesis.layers:
            layer.bias.normal_(0, 0.1)
            layer.magnitude_ema.fill_(0.7)
    return made


def latents(g: StyleGAN3Generator, size: int = 2) -> Tensor:
    return g.mapping(torch.randn(size, g.z_dim, dtype=torch.float64))


# ---- published numbers ------------------------------------------------------------------------------------------------------
def test_published_parameter_counts() -> None:
    """T: 22.3M in the paper; R: as the official training log prints it (NVlabs/stylegan3 issue 181), and the discriminator."""
    with torch.device("meta"):
        t, r = models.from_config("stylegan3-t-1024"), models.from_config("stylegan3-r-1024")
    assert round(count(t.generator) / 1e6, 1) == 22.3
    assert count(r.generator) == 15_093_151
    assert count(t.discriminator) == count(r.discriminator) == 29_012_513


def table(config: StyleGAN3Config) -> list[tuple[str, int, int]]:
    """Name, parameters without the affine layer, and whether it runs in float16, of each layer."""
    with torch.device("meta"):
        g = StyleGAN3Generator(config)
    return [
        (f"L{i}_{x.geometry.out_size}_{x.geometry.out_channels}", x.weight.numel() + x.bias.numel(), half)
        for i, (x, half) in enumerate(zip(g.synthesis.layers, g.synthesis.takes_half, strict=True))
    ]


def test_published_layer_tables() -> None:
    """Rows of the summaries that the official code prints (NVlabs/stylegan3 issues 181, 194 and 49)."""
    rows = table(models.config_of("stylegan3-r-1024"))
    assert rows[10:] == [
        ("L10_1044_161", 41377, True),
        ("L11_1044_102", 16524, True),
        ("L12_1044_64", 6592, True),
        ("L13_1024_64", 4160, True),
        ("L14_1024_3", 195, True),
    ]
    rows = table(models.config_of("stylegan3-t-256", channel_base=32768))
    assert [(*row[:1], row[2]) for row in rows[:6]] == [
        ("L0_36_512", False),
        ("L1_36_512", False),
        ("L2_36_512", False),
        ("L3_52_512", True),
        ("L4_52_512", True),
        ("L5_84_512", True),
    ]
    assert rows[0][1] == 2359808
    rows = table(models.config_of("stylegan3-r-512"))
    assert [(name, half) for name, _, half in rows[2:5]] == [("L2_52_1024", False), ("L3_52_1024", False), ("L4_84_1024", True)]


def test_published_buffers() -> None:
    """Taps, waves and statistics of R at 1024: 5600 numbers in the official summary, 9 of them its buffer for a transform."""
    g = StyleGAN3Generator(models.config_of("stylegan3-r-1024", channel_base=1024, channel_max=1024, mapping_layers=1))
    waves = g.synthesis.input.phases.numel()
    found = sum(b.numel() for b in g.buffers()) + 3 * (1024 - waves)
    assert found == 5600 - 9


# ---- the input --------------------------------------------------------------------------------------------------------------
def make_input() -> FourierInput:
    torch.manual_seed(1)
    made = FourierInput(7, 12, 5, rate=8, bandwidth=2.0).double()
    nn.init.normal_(made.affine.weight)
    return made


def test_input_by_hand() -> None:
    layer = make_input()
    w = torch.randn(2, 5, dtype=torch.float64)
    t = layer.affine(w)
    t = t / t[:, :2].norm(dim=1, keepdim=True)
    user = transform_matrix((0.1, -0.2), 25, 1.2)
    found = layer(w, user)
    weight = layer.mix.weight[:, :, 0, 0] / math.sqrt(7)
    for n, (cos, sin, tx, ty) in enumerate(t.tolist()):
        for y, x in ((0, 0), (3, 10), (11, 5)):
            place = torch.tensor([(x + 0.5 - 6) / 8, (y + 0.5 - 6) / 8, 1.0], dtype=torch.float64)
            px, py = (torch.linalg.inv(user) @ place)[:2].tolist()
            px, py = px - tx, py - ty
            px, py = cos * px - sin * py, sin * px + cos * py
            f = layer.frequencies
            waves = torch.sin(2 * math.pi * (f[:, 0] * px + f[:, 1] * py + layer.phases))
            norm = f.norm(dim=1) / 1.2  # the frequency that is left once the picture is larger
            assert float(norm.max()) < 2, "in the band"
            torch.testing.assert_close(found[n, :, y, x], weight @ waves)


def test_waves_are_uniform_in_the_disc() -> None:
    torch.manual_seed(2)
    layer = FourierInput(4000, 4, 3, rate=16, bandwidth=2.0)
    share = (layer.frequencies.norm(dim=1) / 2) ** 2  # of the disc's area: uniform
    angle = torch.atan2(layer.frequencies[:, 1], layer.frequencies[:, 0]) / (2 * math.pi) + 0.5
    for values in (share, angle, layer.phases + 0.5):
        assert float(values.min()) >= 0 and float(values.max()) <= 1
        counts = torch.histc(values, 10, 0, 1)
        assert float((counts - 400).abs().max()) < 90  # 5 standard deviations


def test_nothing_moves_at_first() -> None:
    torch.manual_seed(3)
    layer = FourierInput(6, 8, 5, rate=8, bandwidth=2.0)
    w = torch.randn(2, 5)
    torch.testing.assert_close(layer(w), layer(torch.zeros(2, 5)))
    torch.testing.assert_close(layer(w), layer(w, torch.eye(3)))


def test_learned_and_given_transforms_agree() -> None:
    """(cos, sin, x, y) of w turn by -angle, then move; the user's transform comes after."""
    layer = make_input()
    with torch.no_grad():
        layer.affine.weight.zero_()
        layer.affine.bias[:] = torch.tensor([3 * math.cos(0.4), 3 * math.sin(0.4), 0.6, -0.3], dtype=torch.float64)
    w = torch.zeros(1, 5, dtype=torch.float64)
    learned, user = transform_matrix((0.2, -0.1), -math.degrees(0.4)), transform_matrix((0.3, 0.1), 70, 1.5)
    other = copy.deepcopy(layer)
    with torch.no_grad():
        other.affine.bias[:] = torch.tensor([1.0, 0, 0, 0])
    torch.testing.assert_close(layer(w), other(w, learned))
    torch.testing.assert_close(layer(w, user), other(w, user @ learned))
    both = torch.stack([user, torch.eye(3, dtype=torch.float64)])[:, :2]
    found = layer(w.expand(2, -1), both)
    torch.testing.assert_close(found, torch.cat([layer(w, user), layer(w)]))


def test_transforms_move_what_is_seen() -> None:
    layer = make_input()
    w = torch.randn(1, 5, dtype=torch.float64)
    still = layer(w)
    right = layer(w, transform_matrix((2 / 8, 1 / 8)))  # two pixels to the right, one down
    torch.testing.assert_close(right[:, :, 1:, 2:], still[:, :, :-1, :-2])
    torch.testing.assert_close(layer(w, transform_matrix(angle=90)), still.rot90(-1, (2, 3)))  # clockwise
    smaller = layer(w, transform_matrix(scale=1 / 64))
    assert not smaller.any(), "no wave that the sampling rate cannot hold"


def test_half_keeps_the_waves() -> None:
    layer = FourierInput(7, 12, 5, rate=8, bandwidth=2.0)
    waves = layer.frequencies.clone()
    layer.bfloat16()
    assert layer.frequencies.dtype == torch.float32 and torch.equal(layer.frequencies, waves)
    assert layer(torch.randn(2, 5).bfloat16()).dtype == torch.bfloat16
    assert layer.double().frequencies.dtype == torch.float64


# ---- canvases and windows ---------------------------------------------------------------------------------------------------
@KINDS
def test_whole_canvas(config: StyleGAN3Config) -> None:
    g = generator(config)
    w, move = latents(g), transform_matrix((0.1, -0.2), 30)
    plain = g.synthesis(w, transform=move)
    assert plain.shape == (2, 3, 32, 32)
    assert float(plain.detach().std()) > 0.02
    torch.testing.assert_close(g.synthesis(w, transform=move, canvas=(32, 32)), plain)
    torch.testing.assert_close(g.synthesis(w, transform=move, window=(0, 0, 32, 32)), plain)
    assert g.synthesis.canvas_step == 2


@pytest.mark.parametrize("config", [SMALL, ROTATING, SMALL.replace(margin=0, conv_kernel=5)], ids=["T", "R", "no margin"])
def test_windows_equal_the_whole(config: StyleGAN3Config) -> None:
    g = generator(config)
    w, canvas, move = latents(g), (40, 62), transform_matrix((0.1, -0.2), 30)
    with torch.no_grad():
        whole = g.synthesis(w, transform=move, canvas=canvas)
        assert whole.shape == (2, 3, 40, 62)
        for top, left, height, width in ((0, 0, 40, 62), (0, 0, 7, 9), (39, 61, 1, 1), (13, 22, 11, 5), (33, 0, 7, 62)):
            part = g.synthesis(w, transform=move, canvas=canvas, window=(top, left, height, width))
            torch.testing.assert_close(part, whole[:, :, top : top + height, left : left + width])
        for tile in (17, 64):
            torch.testing.assert_close(g.synthesis.tiled(w, canvas, tile, move), whole)
        part = g.float().synthesis(w.float(), transform=move, canvas=canvas, window=(13, 22, 11, 5))
    error = (part.double() - whole[:, :, 13:24, 22:27]).abs().max() / whole.abs().max()
    assert part.dtype == torch.float32 and float(error) < 1e-5


def test_window_by_the_reference_and_its_gradients() -> None:
    g = generator(SMALL)
    other = copy.deepcopy(g)
    models.set_ops(other, "reference")
    w = latents(g, 1).detach()
    results = []
    for network, crop in ((g, False), (other, False), (g, True)):
        ws = w.clone().requires_grad_()
        if crop:
            y = network.synthesis(ws, canvas=(48, 48))[:, :, 5:15, 30:44]
        else:
            y = network.synthesis(ws, canvas=(48, 48), window=(5, 30, 10, 14))
        parameters = [network.synthesis.input.mix.weight, *(x.weight for x in network.synthesis.layers)]
        results.append([y, *torch.autograd.grad(y.square().sum(), [ws, *parameters])])
    for found in results[1:]:
        for a, b in zip(results[0], found, strict=True):
            torch.testing.assert_close(a, b)


def test_canvas_continues_the_image() -> None:
    """A larger canvas shows what the image shows, moved under the window: but for the borders that the layers feel."""
    g = generator(ROTATING, num_layers=3, num_critical=1, margin=16)
    w = latents(g)
    with torch.no_grad():
        whole = g.synthesis(w, canvas=(96, 96))
        moved = g.synthesis(w, canvas=(96, 96), transform=transform_matrix((0.25, -0.25)))  # 8 pixels right, 8 up
        inner = g.synthesis(w, canvas=(64, 64))
    torch.testing.assert_close(whole[:, :, 40:56, 40:56], inner[:, :, 24:40, 24:40], rtol=1e-6, atol=1e-6)
    error = (moved[:, :, 32:48, 48:64] - whole[:, :, 40:56, 40:56]).norm() / whole.norm()
    assert float(error) < 1e-2


def test_a_window_takes_what_it_needs() -> None:
    """Far inside a large canvas each layer runs on the window and a border that does not grow with the canvas."""
    geometries = models.config_of("stylegan3-t-1024").geometries()
    for canvas in (8192, 65536):
        found = _canvas.strips(geometries, 1024, canvas, canvas // 2, canvas // 2 + 256)
        pixels = [s.stop - s.start for s in found]
        assert pixels[-1] == 256 and pixels[-2] < 270
        assert pixels[0] < 16 * (256 / 1024 + 6)
        assert [s.padding for s in found][-1] == (0, 0)
    sizes = _canvas.sizes_along(geometries, 1024, 1024)
    assert sizes == [*(g.in_size for g in geometries), 1024]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"canvas": (33, 32)}, r"canvas must be \(height, width\) of positive multiples of 2, got \(33, 32\)"),
        ({"canvas": (0, 32)}, "canvas must be .* positive multiples"),
        ({"canvas": (32,)}, r"canvas must be .*, got \(32,\)"),
        ({"canvas": (64.0, 64)}, "canvas must be"),
        ({"window": (0, 0, 33, 32)}, r"window must be \(top, left, height, width\) inside of the canvas \(32, 32\), got"),
        ({"canvas": (64, 64), "window": (-1, 0, 8, 8)}, r"inside of the canvas \(64, 64\)"),
        ({"window": (0, 0, 0, 8)}, "window must be"),
        ({"transform": torch.eye(2)}, r"transform must be \[2, 3\], \[3, 3\], \[2, 2, 3\] or \[2, 3, 3\], got \[2, 2\]"),
        ({"transform": torch.eye(3).expand(3, 3, 3)}, r"transform must be .*, got \[3, 3, 3\]"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    g = generator(SMALL)
    with pytest.raises(ValueError, match="StyleGAN3Generator: .*" + message):
        g(torch.randn(2, 12, dtype=torch.float64), **options)


def test_bad_tiles_and_scales() -> None:
    g = generator(SMALL)
    with pytest.raises(TypeError, match=r"transform must be a torch\.Tensor, got list"):
        g.synthesis(latents(g), transform=[[1, 0, 0], [0, 1, 0]])
    with pytest.raises(ValueError, match="tile must be an int of at least 1, got 0"):
        g.synthesis.tiled(latents(g), (64, 64), 0)
    with pytest.raises(ValueError, match="canvas must be"):
        g.synthesis.tiled(latents(g), (63, 64))
    with pytest.raises(ValueError, match="scale must not be 0"):
        transform_matrix(scale=0)


# ---- equivariance -----------------------------------------------------------------------------------------------------------
def contrasted(config: StyleGAN3Config) -> StyleGAN3Generator:
    """Random weights, and images that use the range from -1 to 1, on which decibels depend."""
    torch.manual_seed(4)
    g = StyleGAN3Generator(config).eval()
    with torch.no_grad():
        std = float(g(g.sample_z(16)).std())
        twin = StyleGAN3Generator(config.replace(output_scale=config.output_scale * 0.4 / std)).eval()
        twin.load_state_dict(g.state_dict())
        assert 0.25 < float(twin(g.sample_z(16)).std()) < 0.6
    return twin


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def test_translation_equivariance() -> None:
    """Far above what the same network reaches whose nonlinearity runs at the rate of the signal."""
    g = contrasted(SMALL)
    plain = contrasted(SMALL.replace(lrelu_upsampling=1))
    whole = translation_equivariance(g, 6, 4, random=seeded())
    parts = translation_equivariance(g, 4, 4, fractional=True, random=seeded())
    aliased = translation_equivariance(plain, 6, 4, random=seeded())
    assert whole > 70 and parts > 60 and aliased < 60 < whole - 10


def test_rotation_equivariance() -> None:
    """R is equivariant to rotation, T is not; R is to translation as well."""
    r, t = contrasted(ROTATING), contrasted(SMALL)
    turned = rotation_equivariance(r, 3, 4, random=seeded())
    assert turned > 55
    assert rotation_equivariance(t, 3, 4, random=seeded()) < 30
    assert translation_equivariance(r, 4, 4, random=seeded()) > 70


def test_resampling_of_the_metrics() -> None:
    """Waves, whose moved picture is known, against the moved and filtered picture."""
    size, move = 40, transform_matrix((0.06, -0.03), 33)
    place = (torch.arange(size, dtype=torch.float64) + 0.5) / size - 0.5
    x, y = place.expand(size, size), place[:, None].expand(size, size)

    def picture(x: Tensor, y: Tensor) -> Tensor:
        return torch.stack([torch.sin(2 * math.pi * (3 * x + 2 * y)), torch.cos(2 * math.pi * (5 * y - 4 * x))])

    undone = torch.linalg.inv(move)
    there = [undone[i, 0] * x + undone[i, 1] * y + undone[i, 2] for i in (0, 1)]
    found, valid = resampled(picture(x, y), move)
    expected, inside = resampled(picture(*there), torch.eye(3))
    both = valid & inside
    assert both.sum() > 300 and inside.sum() >= 24**2
    assert 10 * math.log10(4 / float((found - expected)[:, both].square().mean())) > 65, "what may be measured ends there"
    assert float((found - picture(*there))[:, valid].abs().max()) < 0.03, "the passband's ripple"
    fine, far = (torch.sin(2 * math.pi * f * size * x)[None] for f in (0.3, 0.49))
    assert float(resampled(fine, move)[0][:, valid].std()) > 0.6 > 0.05 > float(resampled(far, move)[0][:, valid].std())
    with pytest.raises(ValueError, match="H = W"):
        resampled(torch.zeros(1, 4, 5), move)


def test_shifted() -> None:
    image = torch.arange(12.0).reshape(1, 3, 4)
    moved, valid = shifted(image, 1, -2)
    assert moved.tolist() == [[[0, 8, 9, 10], [0] * 4, [0] * 4]]
    assert valid.tolist() == [[False, True, True, True], [False] * 4, [False] * 4]
    assert not shifted(image, 4, 0)[1].any()


@pytest.mark.parametrize(
    "run, arguments, message",
    [
        (translation_equivariance, {"count": 0}, "translation_equivariance: count must be an int of at least 1, got 0"),
        (translation_equivariance, {"max_translation": 1.0}, "max_translation must be above 0 and below 1"),
        (rotation_equivariance, {"radius": 0}, "rotation_equivariance: radius must be an int of at least 1, got 0"),
    ],
)
def test_metrics_refuse(run: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(StyleGAN3Generator(TINY), **arguments)


# ---- training ---------------------------------------------------------------------------------------------------------------
def test_running_mean_squares() -> None:
    g = StyleGAN3Generator(TINY)
    z = torch.randn(2, g.z_dim)

    def squares() -> list[float]:
        return [float(layer.magnitude_ema) for layer in g.synthesis.layers]

    first = squares()
    g(z, update_emas=False)
    g(z, canvas=(32, 32))
    g(z, window=(0, 0, 4, 4))
    g.eval()(z)
    assert squares() == first == [1.0] * 5
    g.train()(z)
    assert all(a != b for a, b in zip(squares(), first, strict=True))


@pytest.mark.parametrize("config", [TINY, TINY.replace(num_classes=3), TINY.replace(conv_kernel=1, radial=True)])
def test_equals_its_reference(config: StyleGAN3Config) -> None:
    """With an input that w moves: values, gradients of both networks, of R1, and of the path length."""
    torch.manual_seed(6)
    gan = models.from_config(config).double()
    nn.init.normal_(gan.generator.synthesis.input.affine.weight, std=0.3)
    other = copy.deepcopy(gan)
    models.set_ops(other, "reference")
    z, real = torch.randn(2, 16, dtype=torch.float64), torch.randn(2, 3, 16, 16, dtype=torch.float64)
    noise = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    labels = torch.tensor([2, 0]) if config.num_classes else None
    results = []
    for pair in (gan, other):
        w = pair.generator.mapping(z, labels)
        images = pair.generator.synthesis(w)
        path = losses.path_length_penalty(images, w, 0.0, noise=noise)[0]
        x = real.clone().requires_grad_()
        logits = pair.discriminator(x, labels)
        total = losses.r1_penalty(logits, x) + pair.discriminator(images, labels).sum() + path
        results.append([images, logits, path, *torch.autograd.grad(total, list(pair.parameters()))])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


def test_half_precision_of_high_resolutions() -> None:
    g = StyleGAN3Generator(TINY.replace(num_fp16_res=1)).eval()
    assert g.synthesis.takes_half == [False, True, True, True, True]
    z = torch.randn(2, g.z_dim)
    with torch.no_grad():
        full, half, unasked = g(z, half=False), g(z, half=True), g(z)
    assert half.dtype == torch.float32 and not torch.equal(full, half)
    assert float((full - half).norm() / full.norm()) < 0.01
    assert torch.equal(unasked, full), "on the CPU only where it is asked for"


def test_autocast_moves_by_the_same_distance() -> None:
    """bfloat16 has 8 bits: a learned translation in it would be off by a pixel at 256 pixels."""
    layer = make_input().float()
    w = torch.randn(3, 5)
    expected = layer(w)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = layer(w)
    assert found.dtype == torch.bfloat16
    assert float(((found.float() - expected).norm() / expected.norm()).detach()) < 0.005  # the rounding of weights and results


def test_compiles_with_a_canvas() -> None:
    g = generator(TINY, num_layers=2)
    z = torch.randn(2, 16, dtype=torch.float64)
    options = {"transform": transform_matrix((0.1, 0.2), 40), "canvas": (32, 24), "window": (3, 4, 9, 16)}
    compiled = torch.compile(g, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(z, **options), g(z, **options))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"resolution": 24}, "StyleGAN3Config: resolution must be a power of 2 of at least 16, got 24"),
        ({"resolution": 8}, "resolution must be a power of 2"),
        ({"num_layers": 1}, "num_layers must be above num_critical, 1, got 1"),
        ({"conv_kernel": 2}, "conv_kernel must be odd, got 2"),
        ({"first_cutoff": 8.0}, "first_cutoff must be above 0 and below half the resolution"),
        ({"first_stopband": 1.0}, "first_stopband must be above first_cutoff, 1.5, got 1.0"),
        ({"channel_base": 8}, "channel_base must be at least the resolution, 16, got 8"),
        ({"magnitude_ema_beta": 2.0}, "magnitude_ema_beta must be 0 to 1, got 2.0"),
        ({"conv_clamp": 0.0}, "conv_clamp must be positive or None, got 0.0"),
        ({"margin": -1}, "margin must be 0 or more, got -1"),
    ],
)
def test_settings_that_it_cannot_do(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TINY.replace(**changes)
