"""Move the look of one photograph onto another: adain_from_features on features that can be inverted exactly; write a PNG.

    python examples/style_transfer.py                        the two photographs that scikit-learn ships
    python examples/style_transfer.py content.jpg style.jpg  any image files

Adaptive instance normalisation gives each feature of the content the mean and the deviation that it has in the style (Huang and
Belongie 2017). Here no network makes the features, and none has to turn them back into an image:

1. colours are rotated to the style's and the content's own uncorrelated axes (whitening and colouring by the eigenvectors of
   their covariance), so that statistics of single channels are all there is to match;
2. a Laplacian pyramid, with the filters of upfirdn2d, splits the image into octaves of detail; the octaves sum to the image;
3. a bank of oriented filters splits each octave into directions. They are windows of the spectrum that sum to 1, so the
   directions sum to the octave.

The mean and the deviation of every (axis, octave, direction) are moved by one call of adain_from_features for each octave, and
sums undo 3, 2 and 1. So the palette, the contrast at each scale and the share of each direction are the style's; where things
are is the content's. (Brush strokes would need the correlations between features that deep networks learn.)
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gankern import ops
from gankern._files import replacing

TAPS = (1, 4, 6, 4, 1)


def load(path: str | None, which: int) -> Tensor:
    """An image [1, 3, H, W] in 0..1: the file, or one of scikit-learn's two photographs."""
    if path is None:
        try:
            from sklearn.datasets import load_sample_images
        except ImportError:
            sys.exit('style_transfer: scikit-learn ships the photographs: pip install -e ".[bench]", or name two image files')
        pixels = load_sample_images().images[which]
    else:
        try:
            from PIL import Image

            with Image.open(path) as file:
                pixels = np.asarray(file.convert("RGB"))
        except (ImportError, OSError) as error:
            sys.exit(f"style_transfer: cannot read {path}: {error}")
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255


def axes(image: Tensor) -> tuple[Tensor, Tensor]:
    """(mean [3], orthogonal axes [3, 3] as columns, largest variance first) of the colours of ``image``."""
    colours = image[0].flatten(1).double()
    vectors = torch.linalg.eigh(torch.cov(colours)).eigenvectors.flip(1)
    vectors = vectors * torch.where(vectors.sum(0) < 0, -1.0, 1.0)  # brighter is positive
    return colours.mean(1).float(), vectors.float()


def rotated(image: Tensor, mean: Tensor, vectors: Tensor) -> Tensor:
    """The colours of ``image`` along ``vectors``."""
    return torch.einsum("nchw,ck->nkhw", image - mean[:, None, None], vectors)


def pyramid(image: Tensor, octaves: int) -> list[Tensor]:
    """Laplacian pyramid: differences between an image and its half size doubled again, and the last half size."""
    f = ops.setup_filter(TAPS)
    levels = []
    for _ in range(octaves):
        half = ops.downsample2d(image, f, 2)
        levels.append(image - ops.upsample2d(half, f, 2))
        image = half
    return [*levels, image]


def collapsed(levels: list[Tensor]) -> Tensor:
    """The image of a pyramid."""
    f = ops.setup_filter(TAPS)
    image = levels[-1]
    for level in reversed(levels[:-1]):
        image = level + ops.upsample2d(image, f, 2)
    return image


def directions(level: Tensor, count: int) -> Tensor:
    """[1, 3 * count, H, W]: an octave's parts along ``count`` directions, whose sum is the octave.

    Of a frequency at angle t the part k has cos^2(t - k pi / count) times 2 / count; these sum to 1, for count >= 2.
    """
    h, w = level.shape[2:]
    angle = torch.atan2(torch.fft.fftfreq(h)[:, None], torch.fft.rfftfreq(w)[None])
    steps = torch.arange(count) * (torch.pi / count)
    windows = (angle - steps[:, None, None]).cos().square() * (2 / count)
    windows[:, 0, 0] = 1 / count  # the mean has no direction
    parts = torch.fft.irfft2(torch.fft.rfft2(level)[:, :, None] * windows, s=(h, w))
    return parts.flatten(1, 2)


def transfer(content: Tensor, style: Tensor, octaves: int, count: int, strength: float) -> Tensor:
    """``content`` with the statistics of ``style``."""
    content_mean, content_axes = axes(content)
    style_mean, style_axes = axes(style)
    margin = 2**octaves  # mirrored, for the filters see 0 outside of an image
    padded = [F.pad(image, [margin] * 4, mode="reflect") for image in (content, style)]
    moved = []
    pairs = zip(
        pyramid(rotated(padded[0], content_mean, content_axes), octaves),
        pyramid(rotated(padded[1], style_mean, style_axes), octaves),
        strict=True,
    )
    for i, (c, s) in enumerate(pairs):
        last = i == octaves
        features = [c, s] if last else [directions(c, count), directions(s, count)]
        result = ops.adain_from_features(*features)
        moved.append(result if last else result.unflatten(1, (3, count)).sum(2))
    inner = collapsed(moved)[:, :, margin:-margin, margin:-margin]
    image = torch.einsum("nkhw,ck->nchw", inner, style_axes) + style_mean[:, None, None]
    return torch.lerp(content, image, strength).clamp(0, 1)


def report(content: Tensor, style: Tensor, result: Tensor) -> str:
    """Distance of mean and covariance of the colours to the style's, before and after."""
    numbers = []
    for image in (content, result):
        a, b = image[0].flatten(1), style[0].flatten(1)
        numbers += [(a.mean(1) - b.mean(1)).norm().item(), (torch.cov(a) - torch.cov(b)).norm().item()]
    mean, covariance, mean_after, covariance_after = numbers
    return f"distance to the style: mean {mean:.4f} -> {mean_after:.4f}, covariance {covariance:.4f} -> {covariance_after:.4f}"


def picture(panels: list[tuple[str, Tensor]], out: Path) -> None:
    """The panels side by side."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, row = plt.subplots(1, len(panels), figsize=(6.4 * len(panels), 4.7), layout="constrained")
    for axis, (title, image) in zip(row, panels, strict=True):
        axis.imshow(image[0].permute(1, 2, 0).numpy(), interpolation="nearest")
        axis.set_title(title, fontsize=13)
        axis.axis("off")
    with replacing(out) as temporary:  # never half a picture
        figure.savefig(temporary, dpi=100)


def main() -> None:
    """Parse the command line, transfer, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("content", nargs="?", help="image file that says where things are (default: a temple)")
    parser.add_argument("style", nargs="?", help="image file that says how they look (default: a flower)")
    parser.add_argument("--octaves", type=int, default=5, help="octaves of detail (default 5)")
    parser.add_argument("--directions", type=int, default=4, help="directions of each octave, at least 2 (default 4)")
    parser.add_argument("--strength", type=float, default=1.0, help="0 leaves the content as it is (default 1)")
    parser.add_argument("--out", type=Path, default=Path("style_transfer.png"), help="picture to write")
    given = parser.parse_args()
    if given.octaves < 1:
        parser.error(f"--octaves must be at least 1, got {given.octaves}")
    if given.directions < 2:
        parser.error(f"--directions must be at least 2, got {given.directions}")
    if not 0 <= given.strength <= 1:
        parser.error(f"--strength must be in 0..1, got {given.strength}")
    images = [load(given.content, 0), load(given.style, 1)]
    unit = 2**given.octaves  # so that every half size is whole
    content, style = (x[:, :, : x.shape[2] // unit * unit, : x.shape[3] // unit * unit] for x in images)
    if min(*content.shape[2:], *style.shape[2:]) < 2 * unit:
        parser.error(f"--octaves {given.octaves} needs images of at least {2 * unit} pixels along each side")
    start = time.perf_counter()
    result = transfer(content, style, given.octaves, given.directions, given.strength)
    print(f"{content.shape[3]} x {content.shape[2]} pixels in {time.perf_counter() - start:.2f} s")
    print(report(content, style, result))
    try:
        picture([("content", content), ("style", style), ("content with the statistics of the style", result)], given.out)
    except ImportError:
        sys.exit('style_transfer: no picture written, matplotlib is missing: pip install -e ".[bench]"')
    print(f"wrote {given.out}")


if __name__ == "__main__":
    main()
