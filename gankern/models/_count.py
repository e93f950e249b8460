"""Parameters and floating-point operations of networks, counted without computing anything."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from gankern import ops  # noqa: F401  registers the operators that are counted
from gankern.models._base import ModelConfig
from gankern.models._examples import example_inputs
from gankern.models._registry import FAMILIES, config_of, from_config


def _conv2d(x: Any, w: Any, *_: Any, out_shape: Any, **__: Any) -> int:
    """Each output is a sum of as many products as a filter has weights."""
    return 2 * math.prod(out_shape) * math.prod(w[1:])


def _conv_transpose2d(x: Any, w: Any, *_: Any, out_shape: Any, **__: Any) -> int:
    """Each input is multiplied by all weights of its channel."""
    return 2 * math.prod(x) * math.prod(w[1:])


def _modulated_conv2d(
    x: Any, weight: Any, styles: Any, input_gain: Any, demodulate: Any, noise: Any, b: Any, f: Any, up: int, *_: Any,
    out_shape: Any, **__: Any,
) -> int:  # fmt: skip
    """As the convolution that it does; upsampling ones are transposed convolutions (1x1: come before the filter)."""
    if up > 1:
        return 2 * math.prod(x) * weight[0] * math.prod(weight[2:])
    return _conv2d(x, weight, out_shape=out_shape)


def _formulas() -> dict[Any, Callable[..., int]]:
    return {
        torch.ops.gankern.conv2d: _conv2d,
        torch.ops.gankern.conv_transpose2d: _conv_transpose2d,
        torch.ops.gankern.modulated_conv2d_inference: _modulated_conv2d,
    }


def count_parameters(module: nn.Module) -> int:
    """Numbers in all parameters of ``module``, each counted once; buffers are not parameters."""
    return sum(p.numel() for p in module.parameters())


def count_flops(module: nn.Module, *inputs: Tensor) -> int:
    """Floating-point operations of one forward pass without gradients.

    Counted are convolutions and matrix products, PyTorch's and gankern's, a product and a sum as two; a modulated convolution
    counts as a convolution. As gankern computes them: where an upsampling layer's convolution runs at the lower resolution, it
    is counted there. Not counted is what is one pass over memory: FIR filters, biases, activations, norms, demodulation.

    Args:
        module: a network; on the 'meta' device nothing is computed.
        *inputs: its arguments, on the same device.

    Returns:
        The number for all samples of ``inputs`` together.
    """
    counter = FlopCounterMode(display=False, custom_mapping=_formulas())
    # The counter hooks on to gradients wherever a module is given something trained, and fails without gradients.
    trained = [p for p in module.parameters() if p.requires_grad]
    try:
        for p in trained:
            p.requires_grad_(False)
        with torch.no_grad(), counter:
            module(*(x.detach() for x in inputs))
    finally:
        for p in trained:
            p.requires_grad_()
    return int(counter.get_total_flops())


@dataclass(frozen=True)
class ModelSummary:
    """What ``gankern models`` says of a preset.

    Attributes:
        name: of the preset.
        family: its family.
        title: what the family is.
        paper: authors and year.
        resolution: height and width of the images.
        channels: channels of the images.
        generator_parameters: numbers in its parameters.
        discriminator_parameters: likewise.
        generator_flops: floating-point operations for an image, forward; see :func:`count_flops`.
        discriminator_flops: likewise.
    """

    name: str
    family: str
    title: str
    paper: str
    resolution: int
    channels: int
    generator_parameters: int
    discriminator_parameters: int
    generator_flops: int
    discriminator_flops: int

    def to_dict(self) -> dict[str, Any]:
        """Names and values, for JSON."""
        return asdict(self)


def summarise(name: str | ModelConfig) -> ModelSummary:
    """Count a model's parameters and operations, in evaluation mode, on the 'meta' device: no memory, no arithmetic.

    Networks for unpaired images are counted together: an image in each direction.

    Args:
        name: a preset ('stylegan2-256'), a family ('dcgan') or a config.

    Raises:
        ValueError: an unknown name.
    """
    config = name if isinstance(name, ModelConfig) else config_of(name)
    with torch.device("meta"):
        gan = from_config(config).eval()
    gan = gan.to("meta")  # what was made on the CPU all the same: taps of filters
    of_generator, of_discriminator = example_inputs(gan)
    family = FAMILIES[config.family]
    return ModelSummary(
        name=name if isinstance(name, str) else config.family,
        family=family.name,
        title=family.title,
        paper=family.paper,
        resolution=config.resolution,
        channels=config.channels,
        generator_parameters=count_parameters(gan.generator),
        discriminator_parameters=count_parameters(gan.discriminator),
        generator_flops=count_flops(gan.generator, *of_generator),
        discriminator_flops=count_flops(gan.discriminator, *of_discriminator),
    )


__all__ = ["ModelSummary", "count_flops", "count_parameters", "summarise"]
