"""Normalisation layers: of planes with factors from parameters, styles, classes or maps; of pixels, minibatches and weights."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from gankern import ops
from gankern.nn.bias_act import Linear, check_act
from gankern.nn.conv import ConvTranspose2d
from gankern.ops.adain.reference import adain_reference, instance_norm_reference
from gankern.ops.bias_act.reference import bias_act_reference
from gankern.ops.minibatch_stddev.reference import minibatch_stddev_reference
from gankern.ops.modulate.reference import modulate_reference
from gankern.ops.pixel_norm.reference import pixel_norm_reference
from gankern.ops.spectral_norm.reference import spectral_norm_reference


def settings_text(**settings: Any) -> str:
    """Settings for print(module), without those that are None."""
    text = ", ".join(f"{k}={v!r}" for k, v in settings.items() if v is not None and k != "reference")
    return text + (", reference=True" if settings.get("reference") else "")


def check_channels(module: nn.Module, x: Tensor, channels: int) -> None:
    """Require images [N, channels, H, W]."""
    if x.dim() != 4 or x.shape[1] != channels:
        name = type(module).__name__
        raise ValueError(f"{name}: x must have shape [N, {channels}, H, W], got {list(x.shape)}")


def scaled(x: Tensor, gains: Tensor, biases: Tensor, reference: bool, **settings: Any) -> Tensor:
    """``act(gains * x + biases)`` with gains and biases [N, C], in one pass (channels_last: the activation in another)."""
    n, c, h, w = x.shape
    if x.is_contiguous():
        # modulate has one bias for all samples: here all channels of all samples are those of one.
        function = modulate_reference if reference else ops.modulate
        return function(x.view(1, n * c, h, w), gains.reshape(1, -1), b=biases.flatten(), **settings).view(n, c, h, w)
    x = torch.addcmul(biases.to(x.dtype)[:, :, None, None], x, gains.to(x.dtype)[:, :, None, None])
    return (bias_act_reference if reference else ops.bias_act)(x, **settings)


class InstanceNormAct(nn.Module):
    """Instance normalisation and the activation behind it, in one pass (Ulyanov et al. 2016).

    Args:
        channels: channels of the input.
        eps: added to the variance. Default 1e-5.
        affine: have a weight, 1 at first, and a bias, 0 at first, for each channel. Default False.
        act: activation of :func:`gankern.ops.instance_norm`. Default 'linear'.
        alpha: as for :func:`gankern.ops.instance_norm`. Default None.
        gain: factor on the activation. Default 1, as in the networks that have this layer.
        reference: run the pure PyTorch reference instead of the fused operator. Default False.

    Shape: [N, channels, H, W] to the same. Gradients of any order.
    """

    def __init__(
        self,
        channels: int,
        eps: float = 1e-5,
        affine: bool = False,
        act: str = "linear",
        alpha: float | None = None,
        gain: float | None = 1.0,
        reference: bool = False,
    ) -> None:
        super().__init__()
        check_act("InstanceNormAct", act)
        self.weight = nn.Parameter(torch.ones(channels)) if affine else None
        self.bias = nn.Parameter(torch.zeros(channels)) if affine else None
        self.channels = channels
        self.settings: dict[str, Any] = {"eps": eps, "act": act, "alpha": alpha, "gain": gain}
        self.reference = reference

    def forward(self, x: Tensor) -> Tensor:
        """Apply to ``x`` [N, channels, H, W]."""
        check_channels(self, x, self.channels)
        function = instance_norm_reference if self.reference else ops.instance_norm
        return function(x, self.weight, self.bias, **self.settings)

    def extra_repr(self) -> str:
        """Sizes and settings for print(module)."""
        return f"{self.channels}, " + settings_text(affine=self.weight is not None, **self.settings, reference=self.reference)


class AdaIN(nn.Module):
    """Adaptive instance normalisation: a style gives each channel its scale and its shift (Huang and Belongie 2017).

    An affine layer with equalised learning rate makes 2 * channels numbers of the style; the scale is 1 + the first half, the
    shift is the second half (Karras et al. 2019).

    Args:
        channels: channels of the input.
        style_dim: size of the style vector.
        eps: added to the variance. Default 1e-5.
        act: activation of :func:`gankern.ops.adain`. Default 'linear'.
        alpha: as for :func:`gankern.ops.adain`. Default None.
        gain: as for :func:`gankern.ops.adain`. Default None.
        reference: run the pure PyTorch reference instead of the fused operators. Default False.

    Shape: x [N, channels, H, W] and w [N, style_dim] to [N, channels, H, W]. Gradients of any order.
    """

    def __init__(
        self,
        channels: int,
        style_dim: int,
        eps: float = 1e-5,
        act: str = "linear",
        alpha: float | None = None,
        gain: float | None = None,
        reference: bool = False,
    ) -> None:
        super().__init__()
        check_act(type(self).__name__, act)
        self.affine = Linear(style_dim, 2 * channels, reference=reference)
        self.channels = channels
        self.settings: dict[str, Any] = {"eps": eps, "act": act, "alpha": alpha, "gain": gain}
        self.reference = reference

    def normalised(self, x: Tensor, w: Tensor, **before: Any) -> Tensor:
        """AdaIN of ``x`` with style ``w``, and what goes ``before`` it: pre_noise, pre_bias, pre_act."""
        check_channels(self, x, self.channels)
        scale, shift = self.affine(w).chunk(2, 1)
        return (adain_reference if self.reference else ops.adain)(x, 1 + scale, shift, **self.settings, **before)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Apply to ``x`` [N, channels, H, W] with style ``w`` [N, style_dim]."""
        return self.normalised(x, w)

    def extra_repr(self) -> str:
        """Sizes and settings for print(module)."""
        return f"{self.channels}, " + settings_text(**self.settings, reference=self.reference)


class StyleEpilogue(AdaIN):
    """What follows a convolution in StyleGAN: noise, bias, leaky ReLU and AdaIN, in one call (Karras et al. 2019).

    Args:
        channels: channels of the input.
        style_dim: size of the latent vector w.
        use_noise: add noise, one number a pixel, times a learned strength that is 0 at first. Default True. (StyleGAN has one
            strength for each channel; StyleGAN2 one for all, as here.)
        pre_act: activation before the normalisation. Default 'lrelu'.
        eps: added to the variance. Default 1e-8, as in StyleGAN.
        reference: run the pure PyTorch reference instead of the fused operators. Default False.

    Shape: x [N, channels, H, W] and w [N, style_dim] to [N, channels, H, W]. Gradients of any order.
    """

    def __init__(
        self,
        channels: int,
        style_dim: int,
        use_noise: bool = True,
        pre_act: str = "lrelu",
        eps: float = 1e-8,
        reference: bool = False,
    ) -> None:
        super().__init__(channels, style_dim, eps, reference=reference)
        check_act("StyleEpilogue", pre_act)
        self.noise_strength = nn.Parameter(torch.zeros(())) if use_noise else None
        self.bias = nn.Parameter(torch.zeros(channels))
        self.pre_act = pre_act

    def forward(self, x: Tensor, w: Tensor, noise: Tensor | None = None) -> Tensor:
        """Apply to ``x`` with latent ``w``; ``noise`` [N or 1, 1, H, W] is drawn anew where there is some and none is given."""
        if self.noise_strength is None:
            if noise is not None:
                raise ValueError("StyleEpilogue: noise is given, but the module was made with use_noise=False")
        else:
            noise = (x.new_empty(x.shape[0], 1, *x.shape[2:]).normal_() if noise is None else noise) * self.noise_strength
        return self.normalised(x, w, pre_noise=noise, pre_bias=self.bias, pre_act=self.pre_act)

    def extra_repr(self) -> str:
        """Sizes and settings for print(module)."""
        return super().extra_repr() + f", use_noise={self.noise_strength is not None}, pre_act={self.pre_act!r}"


class _OfClass(nn.Module):
    """A gain, about 1 at first, and a bias, 0 at first, for each channel and class."""

    def __init__(
        self, channels: int, classes: int, eps: float, act: str, alpha: float | None, gain: float | None, reference: bool
    ) -> None:
        super().__init__()
        name = type(self).__name__
        check_act(name, act)
        if classes < 1:
            raise ValueError(f"{name}: classes must be at least 1, got {classes}")
        self.gains = nn.Embedding(classes, channels)
        self.biases = nn.Embedding(classes, channels)
        nn.init.normal_(self.gains.weight, 1.0, 0.02)
        nn.init.zeros_(self.biases.weight)
        self.channels, self.eps = channels, eps
        self.settings: dict[str, Any] = {"act": act, "alpha": alpha, "gain": gain}
        self.reference = reference

    def factors(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """(gains, biases) [N, channels] of the classes ``y`` [N]."""
        check_channels(self, x, self.channels)
        if y.dim() != 1 or y.shape[0] != x.shape[0] or y.dtype not in (torch.int64, torch.int32):
            raise ValueError(
                f"{type(self).__name__}: y must be class numbers [N] = [{x.shape[0]}] of int64 or int32, "
                f"got {list(y.shape)} of {str(y.dtype).removeprefix('torch.')}"
            )
        return self.gains(y), self.biases(y)

    def extra_repr(self) -> str:
        """Sizes and settings for print(module)."""
        return f"{self.channels}, " + settings_text(
            classes=self.gains.num_embeddings, eps=self.eps, **self.settings, reference=self.reference
        )


class ConditionalInstanceNorm2d(_OfClass):
    """Instance normalisation whose gain and bias a class chooses, and an activation, in one pass (Dumoulin et al. 2017).

    Args:
        channels: channels of the input.
        classes: number of classes (styles).
        eps: added to the variance. Default 1e-5.
        act: activation of :func:`gankern.ops.adain`. Default 'linear'.
        alpha: as for :func:`gankern.ops.adain`. Default None.
        gain: factor on the activation. Default 1.
        reference: run the pure PyTorch reference instead of the fused operator. Default False.

    Shape: x [N, channels, H, W] and class numbers y [N] to [N, channels, H, W]. Gradients of any order.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        eps: float = 1e-5,
        act: str = "linear",
        alpha: float | None = None,
        gain: float | None = 1.0,
        reference: bool = False,
    ) -> None:
        super().__init__(channels, classes, eps, act, alpha, gain, reference)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Apply to ``x`` [N, channels, H, W] of classes ``y`` [N]."""
        function = adain_reference if self.reference else ops.adain
        return function(x, *self.factors(x, y), self.eps, **self.settings)


class ConditionalBatchNorm2d(_OfClass):
    """Batch normalisation whose gain and bias a class chooses, and an activation (de Vries et al. 2017; Brock et al. 2019).

    PyTorch's own batch normalisation, without weight and bias; then gain, bias and activation in one pass (channels_last: the
    activation in another).

    Args:
        channels: channels of the input.
        classes: number of classes.
        eps: added to the variance. Default 1e-5.
        momentum: share of a batch in the running statistics, or None for a plain mean of all batches. Default 0.1.
        act: activation of :func:`gankern.ops.modulate`. Default 'linear'.
        alpha: as for :func:`gankern.ops.modulate`. Default None.
        gain: factor on the activation. Default 1.
        reference: run the pure PyTorch reference instead of the fused operator. Default False.

    Shape: x [N, channels, H, W] and class numbers y [N] to [N, channels, H, W]. Gradients of any order that PyTorch's batch
    normalisation has.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        act: str = "linear",
        alpha: float | None = None,
        gain: float | None = 1.0,
        reference: bool = False,
    ) -> None:
        super().__init__(channels, classes, eps, act, alpha, gain, reference)
        self.norm = nn.BatchNorm2d(channels, eps, momentum, affine=False)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Apply to ``x`` [N, channels, H, W] of classes ``y`` [N]; with the batch's statistics in training mode."""
        gains, biases = self.factors(x, y)
        return scaled(self.norm(x), gains, biases, self.reference, **self.settings)


class SPADE(nn.Module):
    """Spatially adaptive normalisation: a segmentation map gives each pixel its scale and its shift (Park et al. 2019).

    The map, resized to the images (nearest), goes through a convolution and ReLU, and from there through one convolution to
    images of scale and shift: ``y = act((1 + scale) * norm(x) + shift)`` with instance normalisation.

    Args:
        channels: channels of the input.
        map_channels: channels of the segmentation map.
        hidden: channels between the convolutions. Default 128.
        kernel_size: of the convolutions; odd. Default 3.
        eps: added to the variance. Default 1e-5.
        act: activation of :func:`gankern.ops.adain`. Default 'linear'.
        alpha: as for :func:`gankern.ops.adain`. Default None.
        gain: factor on the activation. Default 1.
        reference: run the pure PyTorch reference instead of the fused operator. Default False.

    Shape: x [N, channels, H, W] and map [N, map_channels, any, any] to [N, channels, H, W]. Gradients of any order.
    """

    def __init__(
        self,
        channels: int,
        map_channels: int,
        hidden: int = 128,
        kernel_size: int = 3,
        eps: float = 1e-5,
        act: str = "linear",
        alpha: float | None = None,
        gain: float | None = 1.0,
        reference: bool = False,
    ) -> None:
        super().__init__()
        check_act("SPADE", act)
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"SPADE: kernel_size must be odd and positive, got {kernel_size}")
        self.shared = nn.Conv2d(map_channels, hidden, kernel_size, padding=kernel_size // 2)
        self.factors = nn.Conv2d(hidden, 2 * channels, kernel_size, padding=kernel_size // 2)
        self.channels = channels
        self.settings: dict[str, Any] = {"eps": eps, "act": act, "alpha": alpha, "gain": gain}
        self.reference = reference

    def forward(self, x: Tensor, segmentation: Tensor) -> Tensor:
        """Apply to ``x`` [N, channels, H, W] with ``segmentation`` [N, map_channels, any, any]."""
        check_channels(self, x, self.channels)
        if segmentation.shape[2:] != x.shape[2:]:
            segmentation = F.interpolate(segmentation, size=x.shape[2:], mode="nearest")
        scale, shift = self.factors(F.relu(self.shared(segmentation.to(x.dtype)))).chunk(2, 1)
        return (adain_reference if self.reference else ops.adain)(x, 1 + scale, shift, **self.settings)

    def extra_repr(self) -> str:
        """Sizes and settings for print(module)."""
        return f"{self.channels}, " + settings_text(**self.settings, reference=self.reference)


class PixelNorm(nn.Module):
    """Scale each pixel's vector of channels to a root mean square of 1 (Karras et al. 2018).

    Args:
        dim: dimension of the channels. Default 1.
        eps: added to the mean square. Default 1e-8.
        reference: run the pure PyTorch reference instead of the fused operator. Default False.

    Shape: any to the same. Gradients of any order.
    """

    def __init__(self, dim: int = 1, eps: float = 1e-8, reference: bool = False) -> None:
        super().__init__()
        self.dim, self.eps, self.reference = dim, eps, reference

    def forward(self, x: Tensor) -> Tensor:
        """Apply to ``x``."""
        return (pixel_norm_reference if self.reference else ops.pixel_norm)(x, self.dim, self.eps)

    def extra_repr(self) -> str:
        """Settings for print(module)."""
        return settings_text(dim=self.dim, eps=self.eps, reference=self.reference)


class MinibatchStdDev(nn.Module):
    """Append the standard deviation over a minibatch group as extra channels, for a discriminator (Karras et al. 2018).

    Args:
        group_size: samples of a group, at most. Default 4.
        num_channels: extra channels; a divisor of the input's. Default 1.
        reference: run the pure PyTorch reference. Default False.

    Shape: [N, C, H, W] to [N, C + num_channels, H, W]. Gradients of any order.
    """

    def __init__(self, group_size: int = 4, num_channels: int = 1, reference: bool = False) -> None:
        super().__init__()
        for name, value in (("group_size", group_size), ("num_channels", num_channels)):
            if value < 1:
                raise ValueError(f"MinibatchStdDev: {name} must be at least 1, got {value}")
        self.group_size, self.num_channels, self.reference = group_size, num_channels, reference

    def forward(self, x: Tensor) -> Tensor:
        """Apply to ``x`` [N, C, H, W]."""
        function = minibatch_stddev_reference if self.reference else ops.minibatch_stddev
        return function(x, self.group_size, self.num_channels)

    def extra_repr(self) -> str:
        """Settings for print(module)."""
        return settings_text(group_size=self.group_size, num_channels=self.num_channels, reference=self.reference)


class SpectralNorm(nn.Module):
    """A parametrization that divides a weight by its largest singular value (Miyato et al. 2018).

    As ``torch.nn.utils.parametrizations.spectral_norm``, buffers and their names included, in fewer passes over the weight:

        conv = SpectralNorm.on(torch.nn.Conv2d(64, 64, 3))

    In training mode every access to the weight advances the power iteration; ``torch.nn.utils.parametrize.cached()`` makes
    several uses share one.

    Args:
        weight: the weight that it will be registered for; 15 iterations are made at once. One of a single dimension is divided
            by its length.
        n_power_iterations: iterations for each forward in training mode. Default 1.
        dim: dimension of the weight's rows. Default 0.
        eps: smallest length that a vector is divided by. Default 1e-12.
        reference: run the pure PyTorch reference. Default False.

    Shape: that of ``weight`` to the same. Gradients of any order.
    """

    _u: Tensor
    _v: Tensor

    def __init__(
        self, weight: Tensor, n_power_iterations: int = 1, dim: int = 0, eps: float = 1e-12, reference: bool = False
    ) -> None:
        super().__init__()
        if not -weight.dim() <= dim < weight.dim():
            raise ValueError(
                f"SpectralNorm: dim must be in [{-weight.dim()}, {weight.dim() - 1}] for a weight of {weight.dim()} "
                f"dimensions, got {dim}"
            )
        if n_power_iterations < 1:
            raise ValueError(f"SpectralNorm: n_power_iterations must be at least 1, got {n_power_iterations}")
        self.dim, self.eps = dim % weight.dim(), eps
        self.n_power_iterations = n_power_iterations
        self.reference = reference
        if weight.dim() > 1:
            rows = weight.shape[self.dim]
            u, v = (weight.new_empty(size, requires_grad=False).normal_() for size in (rows, weight.numel() // rows))
            self.register_buffer("_u", F.normalize(u, dim=0, eps=eps))
            self.register_buffer("_v", F.normalize(v, dim=0, eps=eps))
            if not weight.is_meta:
                spectral_norm_reference(weight.detach(), self._u, self._v, self.dim, 15, eps)

    @classmethod
    def on(
        cls,
        module: nn.Module,
        name: str = "weight",
        n_power_iterations: int = 1,
        eps: float = 1e-12,
        dim: int | None = None,
        reference: bool = False,
    ) -> nn.Module:
        """Register for the parameter ``name`` of ``module`` and return ``module``; rows along dimension 1 if it is a transposed
        convolution and ``dim`` is None.
        """
        weight = getattr(module, name, None)
        if not isinstance(weight, Tensor):
            raise ValueError(f"SpectralNorm.on: name must be a parameter of {type(module).__name__}, got {name!r}")
        if dim is None:
            dim = int(isinstance(module, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, ConvTranspose2d)))
        parametrize.register_parametrization(module, name, cls(weight, n_power_iterations, dim, eps, reference))
        return module

    def forward(self, weight: Tensor) -> Tensor:
        """The weight divided by its largest singular value."""
        if weight.dim() == 1:
            return F.normalize(weight, dim=0, eps=self.eps)
        function = spectral_norm_reference if self.reference else ops.spectral_norm
        return function(weight, self._u, self._v, self.dim, self.n_power_iterations if self.training else 0, self.eps)

    def right_inverse(self, value: Tensor) -> Tensor:
        """What is assigned to the weight is kept as it is."""
        return value

    def extra_repr(self) -> str:
        """Settings for print(module)."""
        return settings_text(n_power_iterations=self.n_power_iterations, dim=self.dim, eps=self.eps, reference=self.reference)
