"""Resampling modules: a fixed FIR filter as a buffer and one operator call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from gankern import ops
from gankern.ops.upfirdn2d import resample
from gankern.ops.upfirdn2d.reference import upfirdn2d_reference

Taps = Tensor | Sequence[float] | Sequence[Sequence[float]] | None

BINOMIAL = (1, 3, 3, 1)
"""StyleGAN2's low-pass filter (Karras et al. 2020); ``setup_filter`` normalises it to a sum of 1."""


class _Resample(nn.Module):
    """Taps that are not trained, upfirdn2d's other arguments, and the switch between the operator and its reference."""

    filter: Tensor

    def __init__(self, taps: Taps, flip_filter: bool, reference: bool) -> None:
        super().__init__()
        # Not persistent: the taps are part of the architecture, as the factors are, and checkpoints stay exchangeable.
        self.register_buffer("filter", ops.setup_filter(taps), persistent=False)
        self.flip_filter = flip_filter
        self.reference = reference
        self.arguments: dict[str, Any] = {}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        # module.half() must not round the taps: kernels take them in float32 whatever the images are.
        taps = self.filter
        super()._apply(fn, recurse)
        if self.filter.dtype != taps.dtype:
            self.filter = taps.to(self.filter.device)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Resample ``x`` [N, C, H, W]."""
        run = upfirdn2d_reference if self.reference else ops.upfirdn2d
        return run(x, self.filter, flip_filter=self.flip_filter, **self.arguments)

    def extra_repr(self) -> str:
        """Taps, factors and the rest for print(module)."""
        shape = "x".join(str(n) for n in self.filter.shape)
        parts = [f"taps={shape}", *(f"{k}={v}" for k, v in self.arguments.items()), f"flip_filter={self.flip_filter}"]
        return ", ".join(parts) + (", reference=True" if self.reference else "")


class Upsample2d(_Resample):
    """Upsample images by an integer factor with a low-pass filter: :func:`gankern.ops.upsample2d`.

    Args:
        up: factor, an int or [x, y]. Default 2.
        taps: filter taps, normalised to a sum of 1; see :func:`gankern.ops.setup_filter`. Default [1, 3, 3, 1].
        padding: output pixels on top of those that keep the size: an int, [x, y] or [x0, x1, y0, y1]. Default 0.
        flip_filter: False is convolution, True is correlation. Default False.
        gain: factor on the result. Default 1.
        reference: run the pure PyTorch reference instead of the fused operator. Default False.

    Shape: [N, C, H, W] to [N, C, H * up, W * up]. Gradients of any order.
    """

    def __init__(
        self,
        up: int | Sequence[int] = 2,
        taps: Taps = BINOMIAL,
        padding: int | Sequence[int] = 0,
        flip_filter: bool = False,
        gain: float = 1,
        reference: bool = False,
    ) -> None:
        super().__init__(taps, flip_filter, reference)
        self.arguments = resample.upsample2d_arguments(self.filter, up, padding, gain)


class Downsample2d(_Resample):
    """Low-pass filter images and keep every ``down``-th pixel: :func:`gankern.ops.downsample2d`.

    Args:
        down: factor, an int or [x, y]. Default 2.
        taps: filter taps, normalised to a sum of 1; see :func:`gankern.ops.setup_filter`. Default [1, 3, 3, 1].
        padding: input pixels on top of those that keep the size: an int, [x, y] or [x0, x1, y0, y1]. Default 0.
        flip_filter: False is convolution, True is correlation. Default False.
        gain: factor on the result. Default 1.
        reference: run the pure PyTorch reference instead of the fused operator. Default False.

    Shape: [N, C, H, W] to [N, C, H / down, W / down] for sizes that divide. Gradients of any order.
    """

    def __init__(
        self,
        down: int | Sequence[int] = 2,
        taps: Taps = BINOMIAL,
        padding: int | Sequence[int] = 0,
        flip_filter: bool = False,
        gain: float = 1,
        reference: bool = False,
    ) -> None:
        super().__init__(taps, flip_filter, reference)
        self.arguments = resample.downsample2d_arguments(self.filter, down, padding, gain)


class Blur(_Resample):
    """Low-pass filter images at the same size: :func:`gankern.ops.filter2d`.

    Args:
        taps: filter taps, normalised to a sum of 1; see :func:`gankern.ops.setup_filter`. Default [1, 3, 3, 1].
        padding: pixels on top of those that keep the size: an int, [x, y] or [x0, x1, y0, y1]. Default 0.
        flip_filter: False is convolution, True is correlation. Default False.
        gain: factor on the result. Default 1.
        reference: run the pure PyTorch reference instead of the fused operator. Default False.

    Shape: [N, C, H, W] to [N, C, H, W] plus padding. Gradients of any order.
    """

    def __init__(
        self,
        taps: Taps = BINOMIAL,
        padding: int | Sequence[int] = 0,
        flip_filter: bool = False,
        gain: float = 1,
        reference: bool = False,
    ) -> None:
        super().__init__(taps, flip_filter, reference)
        self.arguments = resample.filter2d_arguments(self.filter, padding, gain)
