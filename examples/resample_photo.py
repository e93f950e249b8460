"""Down- and upsample real photographs with upfirdn2d, beside naive striding; write a comparison PNG and print times.

    python examples/resample_photo.py                     the two photographs that scikit-learn ships
    python examples/resample_photo.py my.jpg --factor 8   any image file

Striding keeps every factor-th pixel: fine detail folds into coarse patterns that were not there (aliasing). The same
reduction behind a low-pass filter has none; upfirdn2d filters and drops pixels in one pass.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import gankern
from gankern import ops
from gankern._files import replacing


def load_photos(path: str | None) -> list[tuple[str, torch.Tensor]]:
    """(name, image [1, 3, H, W] in 0..1): the file, or scikit-learn's two photographs."""
    if path is None:
        try:
            from sklearn.datasets import load_sample_images
        except ImportError:
            sys.exit('resample_photo: scikit-learn ships the photographs: pip install -e ".[bench]", or name an image file')
        bunch = load_sample_images()
        pictures = [(Path(name).stem, image) for name, image in zip(bunch.filenames, bunch.images, strict=True)]
    else:
        try:
            from PIL import Image

            with Image.open(path) as file:
                pictures = [(Path(path).stem, np.asarray(file.convert("RGB")))]
        except (ImportError, OSError) as error:
            sys.exit(f"resample_photo: cannot read {path}: {error}")
    return [(name, torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255) for name, image in pictures]


def low_pass(factor: int, lobes: int = 3) -> torch.Tensor:
    """Kaiser-windowed sinc taps that pass what ``1 / factor`` of the resolution can hold (beta 5: some 50 dB stopband)."""
    count = 2 * lobes * factor
    t = (np.arange(count) - (count - 1) / 2) / factor
    return ops.setup_filter(torch.from_numpy(np.sinc(t) * np.kaiser(count, 5.0)))


def seconds(function: Callable[[], torch.Tensor], device: torch.device) -> float:
    """Median of 7 calls after a warm-up."""
    times = []
    for _ in range(8):
        start = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return float(np.median(times[1:]))


def print_times(x: torch.Tensor, f: torch.Tensor, factor: int) -> None:
    """One line for each backend that can run here."""
    print(f"{list(x.shape)} float32 on {x.device}, down {factor} with {f.numel()} taps along each axis:")
    for name in ("cuda", "triton", "cpu", "reference"):
        row = gankern._dispatch.OPS["upfirdn2d"].table.row(name)
        arguments = (x, f, [1, 1], [factor, factor], [0, 0, 0, 0], False, 1.0)
        reason = row.can_run(*arguments) if row else "not there"
        if reason is not None:
            print(f"  {name:10s} cannot run: {reason}")
            continue
        with gankern.use_backend(name):
            down = seconds(lambda: ops.downsample2d(x, f, factor), x.device)
            small = ops.downsample2d(x, f, factor)
            up = seconds(lambda small=small: ops.upsample2d(small, f, factor), x.device)
        print(f"  {name:10s} down {down * 1e3:8.3f} ms   up again {up * 1e3:8.3f} ms")


def picture(photos: list[tuple[str, torch.Tensor]], f: torch.Tensor, factor: int, out: Path) -> None:
    """One row of panels a photograph: original, naive stride, upfirdn2d, the difference of the two."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(len(photos), 4, figsize=(16, 3.4 * len(photos)), squeeze=False, layout="constrained")
    for row, (name, x) in zip(axes, photos, strict=True):
        naive = x[:, :, ::factor, ::factor]
        ours = ops.downsample2d(x, f, factor)[:, :, : naive.shape[2], : naive.shape[3]].cpu()
        difference = (naive.cpu()[:, :, : ours.shape[2], : ours.shape[3]] - ours).abs()
        panels = [
            (f"{name}: original {x.shape[3]} x {x.shape[2]}", x),
            (f"every {factor}th pixel", naive),
            (f"upfirdn2d, {f.numel()} taps, down {factor}", ours),
            (f"|difference|, mean {difference.mean():.3f}", difference * 3),
        ]
        for axis, (title, image) in zip(row, panels, strict=True):
            axis.imshow(image[0].permute(1, 2, 0).clamp(0, 1).cpu().numpy(), interpolation="nearest")
            axis.set_title(title)
            axis.axis("off")
    with replacing(out) as temporary:  # never half a picture
        figure.savefig(temporary, dpi=100)


def main() -> None:
    """Parse the command line, measure, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", nargs="?", help="image file (default: scikit-learn's photographs)")
    parser.add_argument("--factor", type=int, default=6, help="integer factor (default 6)")
    parser.add_argument("--out", type=Path, default=Path("resample_photo.png"), help="comparison picture to write")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args()
    if given.factor < 2:
        parser.error(f"--factor must be at least 2, got {given.factor}")
    photos = [(name, x.to(given.device)) for name, x in load_photos(given.image)]
    f = low_pass(given.factor).to(given.device)
    print_times(photos[0][1], f, given.factor)
    try:
        picture(photos, f, given.factor, given.out)
    except ImportError:
        sys.exit('resample_photo: no picture written, matplotlib is missing: pip install -e ".[bench]"')
    print(f"wrote {given.out}")


if __name__ == "__main__":
    main()
