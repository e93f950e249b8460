"""conv2d_resample: the front door. A composition of upfirdn2d, conv2d and conv_transpose2d by the plan of plan.py."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gankern import _dispatch
from gankern.ops.conv2d import conv2d, conv_transpose2d
from gankern.ops.conv2d_resample import arguments
from gankern.ops.conv2d_resample.plan import Step, steps
from gankern.ops.conv2d_resample.reference import conv2d_resample_reference
from gankern.ops.conv2d_resample.samples import SAMPLES
from gankern.ops.upfirdn2d import upfirdn2d


def conv2d_resample(
    x: Tensor,
    w: Tensor,
    f: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: int | Sequence[int] = 0,
    groups: int = 1,
    flip_weight: bool = True,
    flip_filter: bool = False,
) -> Tensor:
    r"""2-D convolution with FIR upsampling before it or FIR downsampling after it: StyleGAN2's resampling layers.

    1. upsample by ``up`` with the filter ``f`` times up^2 (as :func:`upsample2d`), pad with zeros;
    2. convolve with ``w``;
    3. downsample by ``down`` with the filter ``f`` (as :func:`downsample2d`).

    It is computed the cheap way: strided or transposed convolutions, 1x1 kernels at the lower resolution.

    Args:
        x: images [N, in_channels, H, W]; float32, float64, bfloat16 or float16; any strides.
        w: kernel [out_channels, in_channels / groups, kh, kw], of the dtype of ``x``.
        f: filter taps of :func:`setup_filter`: [taps] or [taps_y, taps_x], or None for none. Default None.
        up: upsampling factor, an int. Default 1.
        down: downsampling factor, an int. Default 1.
        padding: pixels of the upsampled image, on top of those that keep the filter centred: an int, [x, y] or
            [x0, x1, y0, y1]; may be negative. Default 0.
        groups: number of independent groups of channels. Default 1.
        flip_weight: True is correlation, as ``torch.nn.functional.conv2d``; False is convolution. Default True.
        flip_filter: False is convolution with ``f``, True is correlation. Default False.

    Returns:
        [N, out_channels, Ho, Wo]; for an odd kernel with padding kh // 2 these are H * up / down. Dtype of ``x`` (autocast's
        under autocast); channels_last if ``x`` or ``w`` is.

    Raises:
        TypeError, ValueError: an argument of a wrong type, dtype, device, shape or value; the message names it.

    Gradients: of any order in ``x``, ``w`` and ``f``, through :func:`conv2d` and :func:`upfirdn2d`: a second derivative
    does no work that nobody asks for.

    Source: Karras et al. 2020, "Analyzing and improving the image quality of StyleGAN", appendix B; README.md beside this file.
    """
    p = arguments.prepare(x, w, f, up, down, padding, groups, flip_weight, flip_filter)
    kernel: Sequence[int] = p.w.shape[2:]
    if _dispatch.takes_reference():
        if not _dispatch.standard():
            return conv2d_resample_reference(x, w, f, up, down, padding, groups, flip_weight, flip_filter)
        if torch.jit.is_tracing():  # sizes are tensors then, and those of kernel and filter decide what is done
            x0, x1, y0, y1 = map(int, p.padding)
            kernel, p = tuple(map(int, kernel)), p._replace(padding=(x0, x1, y0, y1))
    y = p.x
    for step in _steps(p, kernel):
        if step.op == "upfirdn2d":
            y = upfirdn2d(y, p.f if step.taps else None, flip_filter=p.flip_filter, **step.settings)
        elif step.op == "conv2d":
            y = conv2d(y, p.w if p.flip_weight else p.w.flip(2, 3), **step.settings)
        else:
            y = conv_transpose2d(y, _transposed(p), **step.settings)
    return y


def _steps(p: arguments.Prepared, kernel: Sequence[int]) -> list[Step]:
    return steps(kernel, p.padding, p.f is not None, p.up, p.down, p.groups)


def _transposed(p: arguments.Prepared) -> Tensor:
    """The kernel as conv_transpose2d takes it, [in, out / groups, kh, kw]. That convolves, so a correlation is reversed."""
    w = p.w.flip(2, 3) if p.flip_weight else p.w
    if p.groups == 1:
        return w.transpose(0, 1)
    return w.unflatten(0, (p.groups, -1)).transpose(1, 2).flatten(0, 1)


def _explained(*args: object, **kwargs: object) -> tuple[str, ...]:
    p = arguments.prepare(*args, **kwargs)  # type: ignore[arg-type]
    return tuple(map(str, _steps(p, p.w.shape[2:])))


_dispatch.register(
    _dispatch.OpSpec(
        name="conv2d_resample",
        public=conv2d_resample,
        reference=conv2d_resample_reference,
        prepare=_explained,
        table=None,
        samples=SAMPLES,
        autocast="lower",
    )
)
