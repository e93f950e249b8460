"""Whole reference GANs at the sizes they are used in, a phase of training a row: fused beside ops='reference'.

- ``network_forward``: images of the generator in evaluation mode, without gradients;
- ``network_step``: forward and backward through the generator, gradients of all its parameters;
- ``network_path_length``: path length regularisation: forward, gradient in w, backward through that;
- ``network_r1_step``: the critic's loss of real images with R1: forward, gradient in the images, backward through both;
- ``network_critic_step``: the critic's whole step, loss of real and generated images and the family's penalties.

Beside ours and eager stand:

- ``compile``: the reference generator in torch.compile. It cannot differentiate twice from outside the compiled function: rows
  of penalties try that with a small network, and say what came of it;
- ``plain_convs``: the same convolutions alone, as few as the phase can do with (``convolutions.py``): the ceiling of a speed-up
  is eager's time over theirs;
- ``bf16_autocast``: ours under autocast to bfloat16.

Sizes are those that two CPU cores do in a minute or two, and on a GPU larger ones. Small versions are in ``models.py``, and for
path length and R1 here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gankern import losses
from gankern._dispatch import OpSpec
from gankern._samples import Sample
from gankern._scopes import own_random
from gankern.bench.convolutions import BACKWARD, DOUBLE_BACKWARD, FORWARD, Convolutions, Passes
from gankern.bench.models import critic_gradients, norm, store
from gankern.models import FAMILIES, GAN, ModelConfig, config_of, from_config

if TYPE_CHECKING:
    from gankern.bench.rows import Row

PHASES = ("forward", "step", "path_length", "r1_step", "critic_step")
TWICE = ("path_length", "r1_step", "critic_step")
"""Phases that differentiate twice, from outside of what torch.compile would compile."""

_FULL, _QUICK, _CUDA = frozenset({"full"}), frozenset({"quick", "full"}), frozenset({"full_cuda"})
_GIVEN, _REAL, _DIRECTION = "given_", "real_", "direction_"


@dataclass(frozen=True)
class Network:
    """One size of a family.

    Attributes:
        config: its settings.
        batches: phase to the batches that it is measured with.
        tags: of its samples.
        compiled: phases with torch.compile beside them; penalties always say why not.
        autocast: phases with ours under autocast to bfloat16 beside them.
        block: which block of the generator stands for it, -1 for the whole.
    """

    config: ModelConfig
    batches: Mapping[str, tuple[int, ...]]
    tags: frozenset[str] = _FULL
    compiled: tuple[str, ...] = ()
    autocast: tuple[str, ...] = ()
    block: int = -1

    @property
    def title(self) -> str:
        """'stylegan2 at 128^2'."""
        part = "" if self.block < 0 else f", block {self.block} of its generator"
        return f"{self.config.family} at {self.config.resolution}^2{part}"


def _stylegan3(resolution: int, radial: bool) -> ModelConfig:
    preset = config_of("stylegan3-r-256" if radial else "stylegan3-t-256")
    return preset.replace(resolution=resolution)


NETWORKS: dict[str, Network] = {
    "stylegan2_128": Network(
        config_of("stylegan2", resolution=128, channel_base=32768),
        {"forward": (4,), "step": (4,), "path_length": (4,), "r1_step": (4,)},
        compiled=("forward", "step"), autocast=("forward", "step"),
    ),
    "stylegan3_t_128": Network(
        _stylegan3(128, False), {"forward": (1,), "step": (1,), "path_length": (1,)}, autocast=("forward", "step")
    ),
    "stylegan3_r_64": Network(_stylegan3(64, True), {"forward": (1,), "step": (1,), "path_length": (1,)}),
    "stylegan2_256": Network(
        config_of("stylegan2-256", channel_base=16384),
        {"forward": (1, 4), "step": (2,), "path_length": (1,), "r1_step": (2,)}, compiled=("forward",),
    ),
    "stylegan_128": Network(
        config_of("stylegan-256", resolution=128), {"forward": (1, 4), "step": (2,), "r1_step": (2,)}, compiled=("forward",)
    ),
    "r3gan_32": Network(
        config_of("r3gan-cifar10", num_classes=0), {"forward": (1, 4), "step": (2,), "critic_step": (2,)},
        compiled=("forward",),
    ),
    "cyclegan_256": Network(config_of("cyclegan-256"), {"forward": (1,), "step": (1,)}, compiled=("forward",)),
    "pix2pix_256": Network(config_of("pix2pix-256"), {"forward": (1, 4), "step": (1,), "critic_step": (1,)},
                           compiled=("forward", "step")),
    "wgan_gp_64": Network(config_of("wgan-gp-64"), {"forward": (1, 8), "step": (8,), "critic_step": (8,)},
                          compiled=("forward", "step")),
    "biggan_block_32": Network(
        config_of("biggan-32"), {"forward": (1, 8), "step": (8,)}, compiled=("forward", "step"), block=2
    ),
    # Small ones for every run.
    "stylegan2_tiny": Network(
        FAMILIES["stylegan2"].tiny.replace(resolution=32, channel_base=1024, channel_max=32),
        {"path_length": (4,), "r1_step": (4,)}, _QUICK,
    ),
    "stylegan3_tiny": Network(FAMILIES["stylegan3"].tiny, {"path_length": (2,)}, _QUICK),
    "biggan_block_tiny": Network(FAMILIES["biggan"].tiny, {"forward": (4,), "step": (4,)}, _QUICK, block=0),
    # What only a GPU has the time and the memory for.
    "stylegan2_1024": Network(
        config_of("stylegan2-1024"), {"forward": (1, 8), "step": (4,), "path_length": (2,), "r1_step": (4,)}, _CUDA,
        compiled=("forward",), autocast=("forward", "step"),
    ),
    "stylegan3_t_1024": Network(
        config_of("stylegan3-t-1024"), {"forward": (1, 8), "step": (2,)}, _CUDA, autocast=("forward",)
    ),
    "stylegan_1024": Network(config_of("stylegan-1024"), {"forward": (1, 8), "step": (4,), "r1_step": (4,)}, _CUDA),
    "cyclegan_256_gpu": Network(config_of("cyclegan-256"), {"forward": (8,), "step": (4,)}, _CUDA, ("forward",)),
    "r3gan_64_gpu": Network(
        config_of("r3gan-imagenet-64", num_classes=0), {"forward": (32,), "step": (32,), "critic_step": (32,)}, _CUDA
    ),
    "wgan_gp_64_gpu": Network(config_of("wgan-gp-64"), {"forward": (64,), "step": (64,), "critic_step": (64,)}, _CUDA),
}  # fmt: skip
"""All sizes by name."""


# ---- inputs and networks -----------------------------------------------------------------------------------------------
def _make(name: str, batch: int) -> Callable[..., dict[str, Any]]:
    """Arguments of both networks."""

    def make(dtype: torch.dtype, device: torch.device, generator: torch.Generator) -> dict[str, Any]:
        network = NETWORKS[name]
        config: Any = network.config
        image = (batch, config.channels, config.resolution, config.resolution)

        def images() -> Tensor:
            return torch.rand(image, generator=generator, dtype=torch.float64) * 2 - 1

        task = FAMILIES[config.family].task
        if network.block >= 0:
            like: Any = _on_meta(network.config).generator
            size = 4 << network.block
            shapes = ((batch, like.widths[network.block], size, size), (batch, like.condition_dim))
            given = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
            real: list[Tensor] = []
        elif task == "latent":
            given, real = [torch.randn(batch, config.z_dim, generator=generator, dtype=torch.float64)], [images()]
        else:
            given = [images() for _ in range(1 if task == "paired" else 2)]
            real = [images(), *given] if task == "paired" else given
        made = {f"{prefix}{i}": x for prefix, those in ((_GIVEN, given), (_REAL, real)) for i, x in enumerate(those)}
        return {"network": name, **{k: x.to(dtype).to(device) for k, x in made.items()}}

    return make


@cache
def _on_meta(config: ModelConfig) -> GAN:
    """The networks without memory: for shapes, and for what they would compute."""
    with torch.device("meta"):
        gan = from_config(config).eval()
    return gan.to("meta")  # what was made on the CPU all the same: taps of filters


def fill(network: nn.Module) -> None:
    """Random numbers for biases, noise strengths and last layers that start as zeros: they would hide other gradients."""
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                fan_in = parameter[0].numel() if parameter.dim() > 1 else 100
                parameter.normal_(0, fan_in**-0.5)


_kept = store()


def _gan(name: str, ops: str, phase: str, like: Tensor) -> GAN:
    """The networks of a size, kept for the next call, as in training; both sides with the same weights."""
    key = (name, like.dtype, like.device)
    if _kept.get("key") != key:
        _kept.clear()
        _kept["key"] = key
        with own_random(0, like.device):
            first = from_config(NETWORKS[name].config)
            fill(first)
            second = from_config(NETWORKS[name].config, "reference")
            second.load_state_dict(first.state_dict())
        for side, gan in (("fused", first), ("reference", second)):
            _kept[side] = gan.to(like.device, like.dtype)
    made: GAN = _kept[ops]
    return made.train(phase != "forward")


def _generator(network: Network, gan: GAN) -> Any:
    generator: Any = gan.generator
    return generator if network.block < 0 else generator.blocks[network.block]


def _images(value: Any) -> tuple[Tensor, ...]:
    return value if isinstance(value, tuple) else (value,)


def _directions(images: tuple[Tensor, ...]) -> list[Tensor]:
    """Random images with a variance of 1 / (H W), the same at every call."""
    key = tuple(y.shape for y in images)
    if _kept.get("directions", (None,))[0] != key:
        random = torch.Generator().manual_seed(2)
        made = [torch.randn(y.shape, generator=random, dtype=torch.float64) / y.shape[-1] for y in images]
        _kept["directions"] = (key, [d.to(y.dtype).to(y.device) for d, y in zip(made, images, strict=True)])
    found: list[Tensor] = _kept["directions"][1]
    return found


def _inputs(prefix: str, named: Mapping[str, Tensor]) -> list[Tensor]:
    return [named[k] for k in sorted(named) if k.startswith(prefix)]


Phase = Callable[..., tuple[Tensor, ...]]


# ---- phases ------------------------------------------------------------------------------------------------------------
def phase_of(
    phase: str, ops: str, generator: Callable[[Any], Any] = lambda module: module
) -> Callable[..., tuple[Tensor, ...]]:
    """A phase as a function of a network's name and its inputs, which gives images, lengths and norms of gradients.

    Args:
        phase: one of :data:`PHASES`.
        ops: 'fused' or 'reference'.
        generator: the generator to what is called in its place (a compiled one).
    """

    def run(network: str, **named: Tensor) -> tuple[Tensor, ...]:
        given, real = _inputs(_GIVEN, named), _inputs(_REAL, named)
        gan = _gan(network, ops, phase, given[0])
        made = _generator(NETWORKS[network], gan)
        with own_random(0, given[0].device), torch.set_grad_enabled(phase != "forward"):
            if phase == "forward":
                return _images(generator(made)(*given))
            if phase == "step":
                images = _images(generator(made)(*given))
                total = sum((y * d).sum() for y, d in zip(images, _directions(images), strict=True))
                return (*(y.detach() for y in images), _norm_of(total, made))
            return _TWICE[phase](gan, ops, given, real)

    return run


def _norm_of(loss: Any, network: nn.Module) -> Tensor:
    """The norm of a network's gradients; see ``models.norm`` for why they are not compared one by one."""
    return norm(torch.autograd.grad(loss, list(network.parameters()), allow_unused=True))


def _path_length(gan: GAN, ops: str, given: list[Tensor], real: list[Tensor]) -> tuple[Tensor, ...]:
    generator: Any = gan.generator
    ws = generator.mapping(*given)
    images = generator.synthesis(ws)
    (direction,) = _directions((images,))
    if ops == "fused":
        penalty, lengths, _ = losses.path_length_penalty(images, ws, 0.0, noise=direction)
        return lengths, _norm_of(penalty, generator)
    (slope,) = torch.autograd.grad((images * direction).sum(), ws, create_graph=True)
    lengths = slope.square().sum(2).mean(1).sqrt()
    penalty = 2 * (lengths - 0.01 * lengths.mean()).square().mean()
    return lengths.detach(), _norm_of(penalty, generator)


def _r1(gan: GAN, ops: str, given: list[Tensor], real: list[Tensor]) -> tuple[Tensor, ...]:
    critic = gan.discriminator
    x = real[0].detach().requires_grad_()
    logits = critic(x)
    if ops == "fused":
        penalty = losses.r1_penalty(logits, x)
    else:
        (slope,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
        penalty = 5 * slope.square().sum((1, 2, 3)).mean()
    return penalty.detach(), _norm_of(F.softplus(-logits).mean() + penalty, critic)


def _critic(gan: GAN, ops: str, given: list[Tensor], real: list[Tensor]) -> tuple[Tensor, ...]:
    # Images stand for the generator's: its forward is a row of its own.
    fake = 0.7 * real[0].flip(0, 3)
    return (critic_gradients(gan, ops, real, fake, real[1:], _kept),)


_TWICE: dict[str, Phase] = {"path_length": _path_length, "r1_step": _r1, "critic_step": _critic}


def _samples(phase: str) -> list[Sample]:
    """One for each size and batch of a phase, in float32 and NCHW."""
    return [
        Sample(
            f"{name}_b{batch}", _make(name, batch), (), network.tags, layouts=("nchw",), dtypes=(torch.float32,),
            description=f"{network.title} x {batch}",
        )
        for name, network in NETWORKS.items()
        for batch in network.batches.get(phase, ())
    ]  # fmt: skip


SPECS = {
    spec.name: spec
    for phase in PHASES
    for spec in (
        OpSpec(
            f"network_{phase}", phase_of(phase, "fused"), phase_of(phase, "reference"), lambda **_: (), table=None,
            samples=_samples(phase), derivative_order=0, image=_GIVEN + "0",
        ),
    )
}  # fmt: skip
"""The rows by name."""


# ---- contenders --------------------------------------------------------------------------------------------------------
def contenders(row: Row, kwargs: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    """What stands beside ours and eager in a row, for ``extras.EXTRAS``."""
    phase = row.op.removeprefix("network_")
    network, batch = NETWORKS[kwargs["network"]], kwargs[_GIVEN + "0"].shape[0]
    found: dict[str, Callable[[], Any]] = {}
    if row.compile and phase in TWICE:
        found["compile"] = _compiled_twice()
    elif row.compile and phase in network.compiled:
        found["compile"] = _compiled(phase, kwargs)
    found["plain_convs"] = plain_convolutions(network, phase, batch, kwargs[_GIVEN + "0"].device)
    if phase in network.autocast:
        found["bf16_autocast"] = _autocast(phase, kwargs)
    return found


def _compiled(phase: str, kwargs: dict[str, Any]) -> Callable[[], Any]:
    """A phase with the reference generator in torch.compile."""
    made: dict[int, Any] = {}

    def once(module: Any) -> Any:
        if id(module) not in made:
            torch._dynamo.reset()  # earlier rows must not use up the limit of recompilations
            made[id(module)] = torch.compile(module, dynamic=False)
        return made[id(module)]

    run = phase_of(phase, "reference", once)
    return lambda: run(**kwargs)


def _compiled_twice() -> Callable[[], Any]:
    """Whether a penalty can be taken of a compiled network at all, tried where it costs a second: on two convolutions.

    Where that raises, the row has the reason in place of a time. Where it does not (a later PyTorch), it says that instead of
    compiling a large network for minutes, in a comparison that nobody has looked at yet.
    """

    def attempt() -> None:
        module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Softplus(), nn.Conv2d(4, 1, 3))
        torch._dynamo.reset()
        x = torch.randn(1, 3, 8, 8, requires_grad=True)
        (slope,) = torch.autograd.grad(torch.compile(module, backend="aot_eager")(x).sum(), x, create_graph=True)
        torch.autograd.grad(slope.square().sum(), list(module.parameters()), allow_unused=True)
        raise NotImplementedError("this torch differentiates compiled networks twice: not compared yet")

    return attempt


def plain_convolutions(network: Network, phase: str, batch: int, device: torch.device) -> Callable[[], None]:
    """The convolutions of a phase alone, as many as gankern's layers need, noted without computing anything."""
    gan = _on_meta(network.config)
    recorder = Convolutions()
    inputs = _make(next(k for k, v in NETWORKS.items() if v is network), batch)(
        torch.float32, torch.device("meta"), torch.Generator().manual_seed(0)
    )
    critic = phase in ("r1_step", "critic_step")
    with torch.no_grad(), recorder:
        (gan.discriminator if critic else _generator(network, gan))(*_inputs(_REAL if critic else _GIVEN, inputs))
    return recorder.alone(passes(network, phase), device)


def passes(network: Network, phase: str) -> Passes:
    """How many convolutions and gradients of each layer a phase needs at least, without the merged gradient."""
    if phase == "forward":
        return FORWARD
    if phase == "step":
        return BACKWARD
    if phase != "critic_step":
        return DOUBLE_BACKWARD
    terms = FAMILIES[network.config.family].penalties or {}
    parts = [DOUBLE_BACKWARD if terms.get(name) else BACKWARD for name in ("r1", "r2")]
    parts += [DOUBLE_BACKWARD] if terms.get("wgan_gp") else []
    first, second, third = (sum(kind) for kind in zip(*parts, strict=True))
    return first, second, third


def _autocast(phase: str, kwargs: dict[str, Any]) -> Callable[[], Any]:
    run = phase_of(phase, "fused")
    kind = kwargs[_GIVEN + "0"].device.type

    def call() -> Any:
        with torch.autocast(kind, torch.bfloat16):
            return run(**kwargs)

    return call


CONTENDERS = dict.fromkeys(SPECS, contenders)
