"""Latent-space tools: ways, mixtures, truncation, arithmetic, directions, projection."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gankern import latent, models
from gankern.latent.directions import style_layers
from gankern.latent.projection import learning_rate_share, noise_penalty
from gankern.models import LatentGenerator, StyleGenerator

STYLES = ["stylegan", "stylegan2", "stylegan3"]


def made(family: str, **changes: Any) -> Any:
    """A tiny generator whose mean w and noise strengths are not 0."""
    torch.manual_seed(0)
    generator = models.from_config(models.FAMILIES[family].tiny, **changes).generator
    with torch.no_grad():
        for name, p in generator.named_parameters():
            if "noise_strength" in name:
                p.fill_(0.1)
        if isinstance(generator, StyleGenerator):
            assert generator.mapping.w_avg is not None
            generator.mapping.w_avg.normal_()
    return generator


@pytest.fixture(scope="module", params=STYLES)
def style(request: pytest.FixtureRequest) -> StyleGenerator:
    return made(request.param)


@pytest.fixture(scope="module")
def stylegan2() -> StyleGenerator:
    return made("stylegan2")


@pytest.fixture(scope="module")
def dcgan() -> LatentGenerator:
    return made("dcgan")


def images_of(generator: StyleGenerator, w: Tensor) -> Tensor:
    """By hand."""
    options = {} if type(generator).__name__.startswith("StyleGAN3") else {"noise_mode": "const"}
    with torch.no_grad():
        return copy.deepcopy(generator).eval().synthesis(w, **options)


def close(a: Tensor, b: Tensor) -> bool:
    """Batches of other sizes may round differently."""
    return a.shape == b.shape and bool((a - b).abs().max() <= 1e-4 * (1 + b.abs().max()))


# ---- rendering --------------------------------------------------------------------------------------------------------------
def test_images_are_always_the_same(style: StyleGenerator) -> None:
    style.train()
    style.synthesis.eval()
    before = {k: v.clone() for k, v in style.state_dict().items()}
    random = torch.get_rng_state()
    z = latent.draw_latents(style, [3, 4, 5])
    images = latent.render(style, z, truncation=0.7)
    assert images.shape == (3, 3, 16, 16) and not images.requires_grad
    assert torch.equal(images, latent.render(style, z, truncation=0.7))
    assert close(latent.render(style, z[1:2], truncation=0.7), images[1:2])
    assert close(latent.render(style, w=latent.map_latents(style, z, truncation=0.7), batch=2), images)
    assert style.training and not style.synthesis.training, "each part has its own mode back"
    assert all(torch.equal(v, before[k]) for k, v in style.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(latent.draw_latents(style, [4]), z[1:2]), "a seed is a latent, whatever is beside it"


def test_render_refuses(stylegan2: StyleGenerator, dcgan: LatentGenerator) -> None:
    z = latent.draw_latents(dcgan, [0])
    with pytest.raises(ValueError, match="takes z or w, and got neither"):
        latent.render(dcgan)
    with pytest.raises(TypeError, match=r"must be a StyleGenerator .* got DCGANGenerator"):
        latent.render(dcgan, w=z)
    with pytest.raises(ValueError, match="truncation must be 1: DCGANGenerator has no w"):
        latent.render(dcgan, z, truncation=0.5)
    with pytest.raises(TypeError, match="must be a LatentGenerator, got Linear"):
        latent.draw_latents(nn.Linear(2, 2), [0])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="seeds must be 0 or more, got -1"):
        latent.draw_latents(dcgan, [-1])
    with pytest.raises(ValueError, match="labels must be None: DCGANGenerator has no classes"):
        latent.render(dcgan, z, 1)
    classes = made("stylegan2", num_classes=3)
    with pytest.raises(ValueError, match="labels must be given: StyleGAN2Generator has 3 classes"):
        latent.render(classes, latent.draw_latents(classes, [0]))
    with pytest.raises(ValueError, match="labels must be from 0 to 2, got"):
        latent.render(classes, latent.draw_latents(classes, [0]), 3)
    assert latent.render(stylegan2, torch.empty(0, 16)).shape == (0, 3, 16, 16)


# ---- ways -------------------------------------------------------------------------------------------------------------------
def test_slerp_is_a_turn() -> None:
    a, b = torch.tensor([2.0, 0.0, 0.0]), torch.tensor([0.0, 2.0, 0.0])
    t = torch.tensor([[0.0], [1 / 3], [0.5], [1.0], [1.5]])
    angle = t * math.pi / 2
    expected = 2 * torch.cat([angle.cos(), angle.sin(), torch.zeros_like(angle)], 1)
    assert (latent.slerp(a, b, t) - expected).abs().max() < 1e-6
    a, b = torch.randn(2, 5, 512, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    a, b = a / a.norm(dim=1, keepdim=True), b / b.norm(dim=1, keepdim=True)
    middle = latent.slerp(a, b, 0.3)
    assert (middle.norm(dim=1) - 1).abs().max() < 1e-12 and latent.lerp(a, b, 0.3).norm(dim=1).max() < 0.95
    whole, part = (a * b).sum(1).acos(), (a * middle).sum(1).acos()
    assert (part - 0.3 * whole).abs().max() < 1e-12


def test_slerp_where_there_is_no_plane() -> None:
    a = torch.tensor([1.0, 2.0])
    for b in (3 * a, -a, torch.zeros(2), a):
        assert torch.equal(latent.slerp(a, b, 0.25), latent.lerp(a, b, 0.25))
    rows = latent.slerp(torch.stack([a, a]), torch.stack([2 * a, torch.tensor([-2.0, 1.0])]), 0.5)
    assert torch.allclose(rows[0], 1.5 * a) and torch.allclose(rows[1], (a + torch.tensor([-2.0, 1.0])) / math.sqrt(2))


def test_ways_have_gradients() -> None:
    a, b = (torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(lambda x, y: latent.slerp(x, y, 0.3), (a, b))
    assert torch.autograd.gradgradcheck(lambda x, y: latent.slerp(x, y, 0.3), (a, b))
    x = torch.ones(2, requires_grad=True)
    latent.slerp(x, 2 * x.detach(), 0.5).sum().backward()
    assert x.grad is not None and bool(x.grad.isfinite().all())


def test_bad_ends() -> None:
    with pytest.raises(ValueError, match=r"with one D, got \[3\] and \[4\]"):
        latent.lerp(torch.zeros(3), torch.zeros(4), 0.5)
    with pytest.raises(TypeError, match=r"b must be a floating-point torch\.Tensor, got torch\.int64"):
        latent.slerp(torch.zeros(3), torch.zeros(3, dtype=torch.int64), 0.5)


@pytest.mark.parametrize("loop", [False, True])
@pytest.mark.parametrize("space", ["z", "w"])
def test_a_way_passes_through_its_points(stylegan2: StyleGenerator, space: str, loop: bool) -> None:
    z = latent.draw_latents(stylegan2, [0, 1, 2])
    images = latent.interpolate(stylegan2, z, 4, space=space, truncation=0.8, loop=loop)
    assert images.shape == (12 if loop else 9, 3, 16, 16)
    assert close(images[::4], latent.render(stylegan2, z, truncation=0.8))
    way = latent.lerp if space == "w" else latent.slerp
    ends = latent.map_latents(stylegan2, z, truncation=0.8) if space == "w" else z
    point = way(ends[1:2], ends[2:], 0.25)
    own = latent.render(stylegan2, w=point) if space == "w" else latent.render(stylegan2, point, truncation=0.8)
    assert close(images[5:6], own)


def test_ways_without_w(dcgan: LatentGenerator) -> None:
    assert getattr(dcgan, "prior", "") == "uniform"
    z = latent.draw_latents(dcgan, [0, 1])
    images = latent.interpolate(dcgan, z, 2)
    assert close(images[1:2], latent.render(dcgan, (z[:1] + z[1:]) / 2)), "uniform latents go straight"
    for changes, message in (
        ({"space": "w"}, "space must be 'z', got 'w'"),
        ({"method": "cubic"}, "method must be 'lerp' or 'slerp'"),
        ({"frames": 0}, "frames must be at least 1"),
        ({"z": z[:1]}, "with at least 2 latents"),
    ):
        with pytest.raises(ValueError, match=message):
            latent.interpolate(dcgan, **({"z": z} | changes))  # type: ignore[arg-type]


def test_ways_between_classes() -> None:
    generator = made("stylegan2", num_classes=3)
    z = latent.draw_latents(generator, [0, 1])
    labels = torch.tensor([2, 0])
    in_w = latent.interpolate(generator, z, 2, labels=labels)
    w = latent.map_latents(generator, z, labels)
    assert close(in_w[1:2], latent.render(generator, w=w.mean(0, keepdim=True)))
    in_z = latent.interpolate(generator, z, 4, space="z", method="lerp", labels=labels)
    for i, label in enumerate([2, 2, 0, 0, 0]):
        assert close(in_z[i : i + 1], latent.render(generator, z[:1] + i / 4 * (z[1:] - z[:1]), label))


# ---- styles -----------------------------------------------------------------------------------------------------------------
def test_the_grid_of_mixtures(style: StyleGenerator) -> None:
    rows, columns = (latent.draw_latents(style, s) for s in ([0, 1], [2, 3, 4]))
    grid = latent.mix_styles(style, rows, columns, range(3, 6), truncation=0.9)
    assert grid.shape == (3, 4, 3, 16, 16) and bool((grid[0, 0] == 1).all())
    w_rows, w_columns = (latent.map_latents(style, z, truncation=0.9) for z in (rows, columns))
    assert close(grid[1:, 0], images_of(style, w_rows)) and close(grid[0, 1:], images_of(style, w_columns))
    assert close(grid[2:, 3], images_of(style, style.mix(w_rows[1:], w_columns[2:], 3)))
    everything = latent.mix_styles(style, rows, columns, range(6), truncation=0.9)
    assert close(everything[1, 1:], grid[0, 1:]) and close(everything[2, 1:], grid[0, 1:])
    assert torch.equal(latent.mix_styles(style, rows, columns, truncation=0.9), grid), "by default the second half"
    with pytest.raises(ValueError, match=r"layers must be numbers from 0 to 5, at least one, got \[6\]"):
        latent.mix_styles(style, rows, columns, [6])


def test_truncation(style: StyleGenerator) -> None:
    z = latent.draw_latents(style, [0, 1])
    images = latent.truncation_sweep(style, z, (1.0, 0.5, 0.0))
    assert images.shape == (2, 3, 3, 16, 16)
    assert close(images[:, 0], latent.render(style, z)) and close(images[:, 1], latent.render(style, z, truncation=0.5))
    assert close(images[0, 2], images[1, 2]) and not close(images[0, 0], images[1, 0])
    coarse = latent.truncation_sweep(style, z, (0.0,), truncation_cutoff=2)
    assert not close(coarse[0, 0], coarse[1, 0])
    with pytest.raises(ValueError, match="truncations must have at least one number"):
        latent.truncation_sweep(style, z, ())


# ---- directions -------------------------------------------------------------------------------------------------------------
def test_sums_of_means() -> None:
    a, b, c = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1.0, 1.0]]), torch.tensor([[0.0, 10.0]])
    assert latent.latent_arithmetic([a, c], [b]).tolist() == [1.0, 12.0]
    with pytest.raises(ValueError, match=r"one size, \[2\], not empty; got \[1, 3\] at 1"):
        latent.latent_arithmetic([a], [torch.zeros(1, 3)])
    with pytest.raises(ValueError, match="plus must have at least one set"):
        latent.latent_arithmetic([])


@pytest.mark.parametrize("method", ["mean", "svm"])
def test_a_direction_is_found_in_examples(method: str) -> None:
    if method == "svm":
        pytest.importorskip("sklearn")
    random = torch.Generator().manual_seed(0)
    truth = torch.zeros(8)
    truth[2], truth[5] = 0.6, -0.8
    x = torch.randn(4000, 8, generator=random)
    has = x @ truth > 0
    found = latent.attribute_direction(x[has], x[~has], method)
    assert abs(float(found.norm()) - 1) < 1e-5 and float(found @ truth) > 0.99
    if method == "svm":  # a skewed set moves the means, but not what separates
        x[has] += torch.tensor([3.0, 0, 0, 0, 0, 0, 0, 0])
        means, svm = (latent.attribute_direction(x[has], x[~has], m) for m in ("mean", "svm"))
        margin = [((x @ d)[has].min() - (x @ d)[~has].max()) for d in (means, svm)]
        assert margin[1] > margin[0]


def test_no_direction() -> None:
    with pytest.raises(ValueError, match="have the same mean"):
        latent.attribute_direction(torch.ones(2, 3), torch.ones(4, 3))
    with pytest.raises(ValueError, match="method must be 'mean' or 'svm', got 'lda'"):
        latent.attribute_direction(torch.ones(2, 3), torch.zeros(4, 3), "lda")


def test_edits(style: StyleGenerator, dcgan: LatentGenerator) -> None:
    w = latent.map_latents(style, latent.draw_latents(style, [0, 1]))
    direction = torch.randn(16, generator=torch.Generator().manual_seed(0))
    images = latent.edit(style, w, direction, (0.0, 2.0), layers=[1, 4])
    moved = w.clone()
    moved[:, [1, 4]] += 2 * direction
    assert close(images[:, 0], images_of(style, w)) and close(images[:, 1], images_of(style, moved))
    own = direction[None] * torch.arange(6.0)[:, None]
    assert close(latent.edit(style, w, own, (1.0,))[:, 0], images_of(style, w + own))
    z = latent.draw_latents(dcgan, [0, 1])
    step = torch.full((dcgan.z_dim,), 0.1)
    assert close(latent.edit(dcgan, z, step, (-1.0,))[:, 0], latent.render(dcgan, z - 0.1))
    with pytest.raises(ValueError, match=r"got \[2, 6, 16\] and \[3\]"):
        latent.edit(style, w, torch.zeros(3))
    with pytest.raises(ValueError, match="layers must be None in space 'z'"):
        latent.edit(dcgan, z, step, layers=[0])
    with pytest.raises(TypeError, match="must be a StyleGenerator"):
        latent.edit(dcgan, z, step, space="w")


def test_the_unit_of_a_direction(style: StyleGenerator, dcgan: LatentGenerator) -> None:
    z = style.sample_z(1000, torch.Generator().manual_seed(5))
    w = latent.map_latents(style, z)[:, 0]
    direction = torch.zeros(16)
    direction[2] = 3.0
    assert latent.deviation(style, direction, seed=5) == pytest.approx(float(w[:, 2].std()), rel=1e-4)
    every = direction.expand(6, -1)
    assert latent.deviation(style, every, seed=5) == pytest.approx(float(w[:, 2].std()) * math.sqrt(6), rel=1e-4)
    assert latent.deviation(style, direction, space="z", seed=5) == pytest.approx(float(z[:, 2].std()), rel=1e-4)
    uniform = torch.eye(dcgan.z_dim)[0]
    assert latent.deviation(dcgan, uniform) == pytest.approx(1 / math.sqrt(3), rel=0.05)
    for bad in (torch.zeros(16), torch.ones(3)):
        with pytest.raises(ValueError, match=r"direction must be \[16\] and not 0"):
            latent.deviation(style, bad)


def test_closed_form_directions_are_singular_vectors() -> None:
    weight = torch.randn(30, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    directions, values = latent.closed_form_directions(weight, 4)
    _, singular, right = np.linalg.svd(weight.numpy(), full_matrices=False)
    assert np.abs(values.numpy() - singular[:4] ** 2).max() < 1e-10
    assert np.abs(np.abs((directions.numpy() * right[:4]).sum(1)) - 1).max() < 1e-10
    assert bool((directions.gather(1, directions.abs().argmax(1, keepdim=True)) > 0).all())
    with pytest.raises(ValueError, match="count must be from 1 to 7, got 8"):
        latent.closed_form_directions(weight, 8)
    with pytest.raises(ValueError, match=r"matrix \[M, D\], got \[7\]"):
        latent.closed_form_directions(weight[0])


def test_which_w_each_style_takes() -> None:
    """StyleGAN2's RGB layers share w with the layer after them; StyleGAN3's first w moves the waves."""
    expected = {"stylegan": [0, 1, 2, 3, 4, 5], "stylegan2": [0, 1, 1, 2, 3, 3, 4, 5], "stylegan3": [1, 2, 3, 4, 5]}
    for family, numbers in expected.items():
        assert [i for _, i in style_layers(made(family))] == numbers


def test_sefa_finds_what_was_planted(style: StyleGenerator) -> None:
    style = copy.deepcopy(style)
    planted = torch.zeros(2, 16)
    planted[0, 3], planted[1, 7] = 1.0, 1.0
    for affine, served in style_layers(style):
        with torch.no_grad():
            affine.weight.mul_(0.01).add_(torch.randn(affine.weight.shape[0], 1) * planted[int(served >= 4)])
    for layers, index in ((range(1, 4), 3), (range(4, 6), 7)):
        directions, values = latent.sefa(style, 2, layers)
        assert directions.shape == (2, 16) and directions[0, index] > 0.99 and values[0] > 10 * values[1]
    with pytest.raises(ValueError, match="count must be from 1 to 16, got 17"):
        latent.sefa(style, 17)


def test_sefa_without_styles() -> None:
    with pytest.raises(ValueError, match=r"layers \[0\] of StyleGAN3Generator have no affine layer"):
        latent.sefa(made("stylegan3"), 1, [0])


# ---- projection -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("space", ["w", "w+"])
def test_projection_finds_an_image_again(style: StyleGenerator, space: str) -> None:
    """The target is the image of a w near the mean: that, and not only a smaller loss, is found."""
    before = {k: v.clone() for k, v in style.state_dict().items()}
    z = latent.draw_latents(style, [7])
    w = latent.map_latents(style, z)
    target = latent.render(style, w=w)
    steps: list[int] = []
    found = latent.project(
        style, target, steps=150, space=space, optimise_noise=False, callback=lambda i, d, x: steps.append(i)
    )
    assert found.w.shape == (1, 6, 16) and found.image.shape == target.shape and found.noise == {}
    assert close(found.image, images_of(style, found.w))
    many = latent.map_latents(style, latent.draw_latents(style, range(200))).mean(0, keepdim=True)
    far = (latent.render(style, w=many) - target).square().mean()
    # With a w for each layer there are other minima.
    assert (found.image - target).square().mean() < (0.02 if space == "w" else 0.1) * far
    assert steps == list(range(150)) and len(found.losses) == 150
    same = (found.w == found.w[:, :1]).all()
    assert bool(same) == (space == "w")
    assert all(torch.equal(v, before[k]) for k, v in style.state_dict().items()), "the generator does not change"
    assert all(p.grad is None for p in style.parameters())


def test_projection_with_noise(stylegan2: StyleGenerator) -> None:
    target = latent.render(stylegan2, latent.draw_latents(stylegan2, [1]))[0]
    found = latent.project(stylegan2, target, steps=20, seed=3)
    assert sorted(found.noise) == sorted(n for n, _ in stylegan2.synthesis.named_buffers() if n.endswith("noise_const"))
    for noise in found.noise.values():
        assert abs(float(noise.mean())) < 1e-5 and abs(float(noise.std(correction=0)) - 1) < 1e-4
    again = latent.project(stylegan2, target, steps=20, seed=3)
    assert torch.equal(found.w, again.w) and found.losses == again.losses
    assert not torch.equal(found.w, latent.project(stylegan2, target, steps=20, seed=4).w)
    placed = copy.deepcopy(stylegan2)
    placed.synthesis.load_state_dict(found.noise, strict=False)
    assert close(latent.render(placed, w=found.w), found.image)


class Blurred(nn.Module):
    """A stand-in for a perceptual distance, one number for each image."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        self.calls += 1
        return nn.functional.avg_pool2d(a - b, 4).square().mean((1, 2, 3))


def test_projection_by_a_perceptual_distance(stylegan2: StyleGenerator) -> None:
    target = latent.render(stylegan2, latent.draw_latents(stylegan2, [1]))
    network = Blurred()
    found = latent.project(stylegan2, target, steps=60, perceptual=network, optimise_noise=False)
    assert network.calls == 60 and network(found.image, target) < 0.1 * found.losses[0]
    start = latent.map_latents(stylegan2, latent.draw_latents(stylegan2, [1]))
    near = latent.project(stylegan2, target, steps=1, start=start, jitter=0, optimise_noise=False, pixel_weight=2.0)
    assert near.losses[0] < 1e-6, "it starts where it is told to"


def test_bad_projections(stylegan2: StyleGenerator, dcgan: LatentGenerator) -> None:
    target = torch.zeros(3, 16, 16)
    for changes, message in (
        ({"target": torch.zeros(3, 8, 8)}, r"target must be \[3, 16, 16\] or \[1, 3, 16, 16\], got \[3, 8, 8\]"),
        ({"target": target / 0}, "target must be finite"),
        ({"steps": 0}, "steps must be positive, got 0"),
        ({"space": "z"}, "space must be 'w' or"),
        ({"pixel_weight": 0.0}, "nothing would be compared"),
        ({"start": torch.zeros(3)}, r"start must be \[1, 6, 16\]"),
        ({"labels": 1}, "has no classes"),
    ):
        with pytest.raises(ValueError, match=message):
            latent.project(stylegan2, **({"target": target, "steps": 1} | changes))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"target must be a floating-point torch\.Tensor, got torch\.uint8"):
        latent.project(stylegan2, target.to(torch.uint8))
    with pytest.raises(TypeError, match="must be a StyleGenerator"):
        latent.project(dcgan, target)  # type: ignore[arg-type]
    with pytest.raises(FloatingPointError, match="the loss is nan at step 0"):
        latent.project(stylegan2, target, steps=2, perceptual=lambda a, b: (a - b).sum() * float("nan"))


def test_the_schedule_of_the_learning_rate() -> None:
    shares = [learning_rate_share(x) for x in (0.0, 0.025, 0.05, 0.5, 0.75, 0.875, 1.0)]
    assert shares == pytest.approx([0, 0.5, 1, 1, 1, 0.5, 0])


def test_the_noise_penalty_knows_white_noise() -> None:
    constant = torch.ones(32, 32)
    # Correlation 1 in both directions at 32, then means of 2 at 16 and 4 at 8: 2 (1 + 16 + 256).
    assert float(noise_penalty(constant)) == pytest.approx(2 * (1 + 4**2 + 16**2))
    stripes = torch.ones(4, 4)
    stripes[:, 1::2] = -1
    assert float(noise_penalty(stripes)) == pytest.approx(2)  # 1 along the stripes, (-1)^2 across
    white = torch.randn(256, 256, generator=torch.Generator().manual_seed(0))
    assert float(noise_penalty(white)) < 0.1
