"""Which layout a convolution works in, and which arithmetic, as data."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gankern._library import native_can_run

LEAST_CHANNELS = 32
FEW_CHANNELS = 4


def channels_last_inside(kind: str, image: Tensor, other: Tensor, stride: Sequence[int], groups: int) -> bool:
    """Whether NCHW operands are turned to channels_last and the result back, around PyTorch's convolution on the CPU.

    Turning costs three passes over images (our kernel's: PyTorch's copy out of channels_last takes as long as a convolution).
    Measured on 2 cores with AVX-512, time as NCHW over time with turning:

    - float32, transposed with a stride: 1.82 for 128 to 64 channels at 129^2, 1.33 for 256 to 128 at 65^2, 1.0 to 1.1 with a
      4x4 kernel; otherwise 0.75 to 1.1, weight gradients 0.7 to 0.95;
    - bfloat16, convolutions and transposed ones: 1.1 to 1.7 from 32 channels on; weight gradients 0.9, and 0.8 for all where a
      weight is larger than the images (512 channels at 16^2); grouped 0.4 to 0.9.

    Args:
        kind: 'conv', 'transpose' or 'weight' (gradient).
        image: the first operand, NCHW.
        other: the second, a weight [., ., kh, kw]; of a weight gradient another image.
        stride: of the convolution, along y and x.
        groups: of the convolution.
    """
    if kind == "weight" or groups > 1:
        return False
    half = image.dtype in (torch.bfloat16, torch.float16)
    strided = image.dtype == torch.float32 and kind == "transpose" and max(stride) > 1
    if not (half or strided) or min(other.shape[:2]) < LEAST_CHANNELS or other.numel() > image.numel():
        return False
    return image.device.type == "cpu" and native_can_run("cpu", "modulate", image) is None


def by_products(x: Tensor, w: Tensor, groups: int) -> bool:
    """Whether a transposed convolution is one matrix product for each image and a sum over taps, rather than oneDNN's.

    To few channels (a generator's last layer, and what a critic's first sends to its images) oneDNN, which works on 16 at a
    time, leaves most of the machine idle. Measured on 2 cores with AVX-512 in float32, time of oneDNN over this, one thread and
    two: from 32 to 512 channels to 3 1.7 to 4.6 and 1.9 to 2.9 (kernels from 3x3 to 7x7, strides 1 and 2, images of 8^2 to
    128^2); to 4 channels 1.7 to 1.9, to 6 1.3, to 8 0.85, to 16 0.5; from 16 channels 1.0 to 1.5, less for 7x7; 1x1 kernels
    0.8 to 1.0.

    Args:
        x: images [N, in_channels, H, W].
        w: weight [in_channels, out_channels, kh, kw].
        groups: of the convolution.
    """
    return (
        groups == 1
        and w.shape[1] <= FEW_CHANNELS
        and w.shape[0] >= LEAST_CHANNELS
        and w.shape[2] * w.shape[3] > 1
        and x.dtype == torch.float32
        and x.device.type == "cpu"
        and x.numel() > 0
    )
