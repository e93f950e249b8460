r"""How well a generator's images move with its input: EQ-T and EQ-R of Karras et al. 2021, in dB.

The input of an equivariant generator g may be moved, or its image: with a transform t of the input and T of the image, g(t z)
is T g(z). The metrics are the peak signal to noise ratio of the difference, over random z and t and over the pixels that both
images have (appendix E):

    EQ = 10 log10(I_max^2 / E[(g(t z) - T g(z))^2]),  I_max = 2 for images from -1 to 1.

EQ-T moves by whole pixels, for which T is exact. Other transforms need interpolation: a windowed jinc, the ideal low-pass
filter of a disc, which is the same in all directions. Both images pass it, so that both hold the same frequencies. (The paper
resamples with Lanczos filters; figures are comparable, not equal.)
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from gankern.models._fourier import transform_matrix
from gankern.models.stylegan3 import StyleGAN3Generator
from gankern.nn.filters import kaiser_beta

PEAK = 2.0
"""I_max: images are from -1 to 1."""
ATTENUATION = 60.0
"""Of the interpolation filter beyond the Nyquist frequency, in dB: what may be measured ends 10 dB higher, at I_max."""


def translation_equivariance(
    generator: StyleGAN3Generator,
    count: int = 64,
    batch: int = 8,
    max_translation: float = 0.125,
    fractional: bool = False,
    radius: int = 8,
    random: torch.Generator | None = None,
) -> float:
    """EQ-T: how well images move with their input along x and y.

    Args:
        generator: the generator; its training mode does not matter, and its running mean squares stay.
        count: images, each with a translation of its own. Default 64 (the paper: 50,000).
        batch: images at a time. Default 8.
        max_translation: translations are uniform from -max_translation to max_translation, in lengths of the image. Default
            0.125.
        fractional: EQ-T_frac: by fractions of a pixel. Default False: rounded to whole pixels.
        radius: half of the interpolation filter's length, with ``fractional``. Default 8.
        random: generator of random numbers, for latents, classes and translations. Default None: PyTorch's own.

    Returns:
        dB; infinite where nothing differs. NaN if no pixel is common to both images.

    Raises:
        ValueError: a number that is out of range.

    Source: Karras et al., "Alias-free generative adversarial networks", 2021, appendix E.
    """
    name = "translation_equivariance"
    if not 0 < max_translation < 1:
        raise ValueError(f"{name}: max_translation must be above 0 and below 1, got {max_translation}")

    def draw() -> Tensor:
        x, y = ((2 * torch.rand(2, generator=random, device=_home(random)) - 1) * max_translation).tolist()
        if not fractional:
            size = generator.config.resolution
            x, y = round(x * size) / size, round(y * size) / size
        return transform_matrix((x, y))

    return _measured(name, generator, draw, count, batch, radius if fractional else 0, random)


def rotation_equivariance(
    generator: StyleGAN3Generator,
    count: int = 64,
    batch: int = 8,
    radius: int = 8,
    random: torch.Generator | None = None,
) -> float:
    """EQ-R: how well images turn with their input, by angles from 0 to 360 degrees about the centre.

    Args:
        generator: as for :func:`translation_equivariance`.
        count: images, each with an angle of its own. Default 64.
        batch: images at a time. Default 8.
        radius: half of the interpolation filter's length; pixels nearer to the border are left out. Default 8.
        random: generator of random numbers, for latents, classes and angles. Default None: PyTorch's own.

    Returns:
        dB; infinite where nothing differs. NaN if no pixel is common to both images.

    Raises:
        ValueError: a number that is out of range.

    Source: Karras et al., "Alias-free generative adversarial networks", 2021, appendix E.
    """

    def draw() -> Tensor:
        return transform_matrix(angle=float(360 * torch.rand((), generator=random, device=_home(random))))

    return _measured("rotation_equivariance", generator, draw, count, batch, radius, random, least=1)


def _home(random: torch.Generator | None) -> torch.device:
    """Where random numbers are drawn."""
    return torch.device("cpu") if random is None else random.device


@torch.no_grad()
def _measured(
    name: str,
    generator: StyleGAN3Generator,
    draw: Callable[[], Tensor],
    count: int,
    batch: int,
    radius: int,
    random: torch.Generator | None,
    least: int = 0,
) -> float:
    """The PSNR over ``count`` images; ``radius`` 0 is for whole pixels."""
    for argument, value, minimum in (("count", count, 1), ("batch", batch, 1), ("radius", radius, least)):
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            raise ValueError(f"{name}: {argument} must be an int of at least {minimum}, got {value!r}")
    squares, values = 0.0, 0
    for start in range(0, count, batch):
        size = min(batch, count - start)
        z = generator.sample_z(size, random)
        labels = None
        if generator.num_classes:
            labels = torch.randint(generator.num_classes, (size,), generator=random, device=_home(random)).to(z.device)
        like = next(generator.parameters())
        w = generator.mapping(z.to(like.dtype), labels)
        transforms = torch.stack([draw() for _ in range(size)]).to(w.device)
        still = generator.synthesis(w, update_emas=False)
        moved = generator.synthesis(w, transform=transforms, update_emas=False)
        for a, b, t in zip(still, moved, transforms, strict=True):
            difference = _difference(a.double(), b.double(), t, radius)
            squares += float(difference.square().sum())
            values += difference.numel()
    if values == 0:
        return math.nan
    mean = squares / values
    return math.inf if mean == 0 else 10 * math.log10(PEAK**2 / mean)


def _difference(still: Tensor, moved: Tensor, transform: Tensor, radius: int) -> Tensor:
    """``moved`` minus ``still`` moved by ``transform``, [C, pixels that both have]."""
    if radius == 0:
        expected, valid = shifted(still, *(round(float(t) * still.shape[-1]) for t in transform[:2, 2]))
        return (moved - expected)[:, valid]
    expected, valid = resampled(still, transform, radius)
    filtered, inside = resampled(moved, torch.eye(3, dtype=torch.float64, device=moved.device), radius)
    return (filtered - expected)[:, valid & inside]


def shifted(image: Tensor, x: int, y: int) -> tuple[Tensor, Tensor]:
    """An image moved by whole pixels.

    Args:
        image: [C, H, W].
        x: pixels to the right.
        y: pixels down.

    Returns:
        The image, with 0 where nothing is known, and [H, W] of bool: True where something is.
    """
    height, width = image.shape[1:]
    result, valid = torch.zeros_like(image), torch.zeros(height, width, dtype=torch.bool, device=image.device)
    if abs(x) < width and abs(y) < height:
        to = [slice(max(s, 0), n + min(s, 0)) for s, n in ((y, height), (x, width))]
        source = [slice(max(-s, 0), n + min(-s, 0)) for s, n in ((y, height), (x, width))]
        result[:, to[0], to[1]] = image[:, source[0], source[1]]
        valid[to[0], to[1]] = True
    return result, valid


def resampled(image: Tensor, transform: Tensor, radius: int = 8) -> tuple[Tensor, Tensor]:
    """An image moved by an affine map, through a low-pass filter that is the same in all directions.

    The filter is a jinc, whose passband is a disc, times a Kaiser window in the radius; its stopband begins at half the
    sampling rate. With the identity the image is filtered and stays where it is.

    Args:
        image: [C, H, W], H = W.
        transform: [3, 3], as :class:`gankern.models.stylegan3.StyleGAN3Synthesis` takes it.
        radius: of the filter, in pixels. Default 8.

    Returns:
        The image, and [H, W] of bool: True where the filter lies inside of the source.
    """
    size = image.shape[-1]
    if image.shape[-2] != size:
        raise ValueError(f"resampled: image must be [C, H, W] with H = W, got {list(image.shape)}")
    # Kaiser's estimate for 2 radius taps; half of the transition band below the Nyquist frequency.
    width = (ATTENUATION - 7.95) / (2.285 * 2 * math.pi * (2 * radius - 1))
    cutoff = 0.5 - width / 2
    beta = torch.tensor(kaiser_beta(ATTENUATION), dtype=torch.float64, device=image.device)
    place = (torch.arange(size, dtype=torch.float64, device=image.device) + 0.5) / size - 0.5
    target = torch.stack(
        [place.expand(size, size), place[:, None].expand(size, size), torch.ones_like(place).expand(size, size)]
    )
    source = torch.einsum("ij,jyx->iyx", torch.linalg.inv(transform.to(place)), target)[:2]
    source = (source + 0.5) * size - 0.5  # where each pixel comes from, in pixels: x, y
    base = source.floor()
    valid = ((base >= radius - 1) & (base < size - radius)).all(0)
    result, total = torch.zeros_like(image, dtype=torch.float64), torch.zeros_like(place.expand(size, size))
    flat = image.double().flatten(1)
    for dy in range(1 - radius, radius + 1):
        for dx in range(1 - radius, radius + 1):
            tap = base + torch.tensor([dx, dy], dtype=torch.float64, device=image.device)[:, None, None]
            r = torch.linalg.vector_norm(source - tap, dim=0)
            argument = 2 * math.pi * cutoff * r
            near = argument < 1e-6  # rounding leaves pixels on themselves at a distance of not quite 0
            jinc = torch.where(near, 1.0, 2 * torch.special.bessel_j1(argument) / argument.clamp_min(1e-6))
            window = torch.special.i0(beta * (1 - (r / radius).square()).clamp_min(0).sqrt()) * (r < radius)
            weight = jinc * window
            column, row = tap.clamp(0, size - 1).long()
            result += weight * flat[:, (row * size + column).flatten()].unflatten(1, (size, size))
            total += weight
    return result / total, valid


__all__ = ["resampled", "rotation_equivariance", "shifted", "translation_equivariance"]
