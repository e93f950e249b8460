"""The codebases that benchmarks/peers.py measures: how their own networks are built, run and put on gankern.

Nothing of them is in this repository: names of modules, classes and arguments only. The user gives the checkout.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.torch_version import TorchVersion

from gankern.bench.common import BenchError
from gankern.bench.networks import fill


@dataclass(frozen=True)
class Networks:
    """A codebase's generator and discriminator behind the same few calls.

    Attributes:
        generator: its parameters get gradients in the generator's phases.
        discriminator: likewise.
        z_dim: size of the latent vector.
        resolution: height and width of the images.
        latents: z [N, z_dim] to what the generator's convolutions get.
        images: that to images [N, 3, H, W]; no random numbers.
        logits: images to logits.
        no_weight_gradients: the codebase's scope for the first gradient of a penalty.
        trainer: R3GAN's own class of training steps.
    """

    generator: nn.Module
    discriminator: nn.Module
    z_dim: int
    resolution: int
    latents: Callable[[Tensor], Tensor]
    images: Callable[[Tensor], Tensor]
    logits: Callable[[Tensor], Tensor]
    no_weight_gradients: Callable[[], AbstractContextManager[Any]] = nullcontext
    trainer: Any = None


@dataclass(frozen=True)
class Model:
    """One size of a codebase's networks; ``goals`` by phase: how many times faster gankern is to be."""

    batch: int
    settings: Mapping[str, Any]
    goals: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Codebase:
    """A family of networks: ``build(settings)`` imports it from ``sys.path``; in ``shim()`` it runs on gankern."""

    title: str
    needs: tuple[str, ...]
    build: Callable[[Mapping[str, Any]], Networks]
    shim: Callable[[], AbstractContextManager[None]]
    models: Mapping[str, Model]
    phases: tuple[str, ...] = ("forward", "generator_step", "path_length", "r1_step")


# ---- NVIDIA's ----------------------------------------------------------------------------------------------------------
def _gradfix() -> Callable[[], AbstractContextManager[Any]]:
    module = importlib.import_module("torch_utils.ops.conv2d_gradfix")
    return lambda: module.no_weight_gradients()  # looked up at every call: the shim puts another one there


def _of_nvlabs(generator: Any, discriminator: Any, **fixed: Any) -> Networks:
    def c(x: Tensor) -> Tensor:
        return torch.zeros(x.shape[0], 0)

    return Networks(
        generator, discriminator, generator.z_dim, generator.img_resolution,
        latents=lambda z: generator.mapping(z, c(z)),
        images=lambda ws: generator.synthesis(ws, **fixed),
        logits=lambda x: discriminator(x, c(x)),
        no_weight_gradients=_gradfix(),
    )  # fmt: skip


def _stylegan2_ada(settings: Mapping[str, Any]) -> Networks:
    networks = importlib.import_module("training.networks")
    size = {"channel_base": settings["channel_base"], "channel_max": settings["channel_max"], "num_fp16_res": 0}
    shape = {"c_dim": 0, "img_resolution": settings["resolution"], "img_channels": 3}
    mapping = {"num_layers": settings["mapping_layers"]}
    generator = networks.Generator(z_dim=512, w_dim=512, **shape, mapping_kwargs=mapping, synthesis_kwargs=size)
    discriminator = networks.Discriminator(**shape, **size, epilogue_kwargs={"mbstd_group_size": 4})
    return _of_nvlabs(generator, discriminator, noise_mode="const")


def _stylegan3(settings: Mapping[str, Any]) -> Networks:
    networks = importlib.import_module("training.networks_stylegan3")
    critics = importlib.import_module("training.networks_stylegan2")
    shape = {"c_dim": 0, "img_resolution": settings["resolution"], "img_channels": 3}
    size = {"channel_base": settings["channel_base"], "channel_max": settings["channel_max"], "num_fp16_res": 0}
    wide = {**size, "channel_base": 2 * size["channel_base"], "channel_max": 2 * size["channel_max"]}
    radial = {**wide, "conv_kernel": 1, "use_radial_filters": True} if settings["radial"] else size
    layers = {"num_layers": settings["layers"]} if "layers" in settings else {}
    generator = networks.Generator(z_dim=512, w_dim=512, **shape, mapping_kwargs={"num_layers": 2}, **radial, **layers)
    discriminator = critics.Discriminator(**shape, **size, epilogue_kwargs={"mbstd_group_size": 4})
    return _of_nvlabs(generator, discriminator)


def _r3gan(settings: Mapping[str, Any]) -> Networks:
    networks = importlib.import_module("training.networks")
    trainer = importlib.import_module("R3GAN.Trainer").AdversarialTraining
    widths, groups = list(settings["widths"]), list(settings["groups"])
    blocks = [settings["blocks"]] * len(widths)
    more = {"ExpansionFactor": 2, "FP16Stages": [], "c_dim": 0, "img_resolution": settings["resolution"]}
    generator = networks.Generator(
        NoiseDimension=64, WidthPerStage=widths, CardinalityPerStage=groups, BlocksPerStage=blocks, **more
    )
    discriminator = networks.Discriminator(
        WidthPerStage=widths[::-1], CardinalityPerStage=groups[::-1], BlocksPerStage=blocks, **more
    )
    return Networks(
        generator, discriminator, 64, settings["resolution"],
        latents=lambda z: z, images=lambda z: generator(z, None), logits=lambda x: discriminator(x, None), trainer=trainer,
    )  # fmt: skip


def _nvlabs_shim() -> AbstractContextManager[None]:
    from gankern.compat import nvlabs

    return nvlabs.installed()


# ---- rosinality's ------------------------------------------------------------------------------------------------------
def _rosinality(settings: Mapping[str, Any]) -> Networks:
    # Its ``op`` compiles CUDA code when it is imported, and then computes in PyTorch on the CPU: import it without compiling.
    with mock.patch("torch.utils.cpp_extension.load", lambda *args, **kwargs: None):
        module = importlib.import_module("model")
    gradfix = importlib.import_module("op.conv2d_gradfix")
    generator = module.Generator(settings["resolution"], 512, settings["mapping_layers"], settings["channel_multiplier"])
    discriminator = module.Discriminator(settings["resolution"], settings["channel_multiplier"])
    noise = [getattr(generator.noises, f"noise_{i}") for i in range(generator.num_layers)]
    return Networks(
        generator, discriminator, 512, settings["resolution"],
        latents=lambda z: generator.style(z)[:, None].repeat(1, generator.n_latent, 1),
        images=lambda ws: generator([ws], input_is_latent=True, noise=noise)[0],
        logits=discriminator,
        no_weight_gradients=lambda: gradfix.no_weight_gradients(),
    )  # fmt: skip


def _rosinality_shim() -> AbstractContextManager[None]:
    from gankern.compat import rosinality

    return rosinality.installed()


# ---- all ---------------------------------------------------------------------------------------------------------------
def _stylegan2(resolution: int, base: int, widest: int, mapping: int = 8) -> dict[str, Any]:
    return {"resolution": resolution, "channel_base": base, "channel_max": widest, "mapping_layers": mapping}


CODEBASES = {
    "stylegan2-ada": Codebase(
        "stylegan2-ada-pytorch", ("training/networks.py", "torch_utils/ops/upfirdn2d.py"), _stylegan2_ada, _nvlabs_shim,
        {
            "128": Model(
                4, _stylegan2(128, 32768, 512), {"forward": 1.3, "generator_step": 1.5, "path_length": 1.6, "r1_step": 1.15}
            ),
            "256": Model(2, _stylegan2(256, 16384, 512)),
            "tiny": Model(2, _stylegan2(16, 256, 32, 2)),
        },
    ),
    "stylegan3": Codebase(
        "stylegan3", ("training/networks_stylegan3.py", "torch_utils/ops/filtered_lrelu.py"), _stylegan3, _nvlabs_shim,
        {
            "t-128": Model(
                1, {**_stylegan2(128, 32768, 512), "radial": False}, {"forward": 3.5, "generator_step": 3.2, "path_length": 4.0}
            ),
            "r-64": Model(
                1, {**_stylegan2(64, 32768, 512), "radial": True}, {"forward": 8.0, "generator_step": 4.0, "path_length": 8.0}
            ),
            "t-tiny": Model(2, {**_stylegan2(16, 256, 16), "radial": False, "layers": 4}),
            "r-tiny": Model(2, {**_stylegan2(16, 256, 16), "radial": True, "layers": 4}),
        },
    ),
    "r3gan": Codebase(
        "R3GAN", ("training/networks.py", "R3GAN/Trainer.py"), _r3gan, _nvlabs_shim,
        {
            "32": Model(4, {"resolution": 32, "widths": (768,) * 4, "groups": (96,) * 4, "blocks": 2}, {"training_step": 1.3}),
            "64": Model(
                2, {"resolution": 64, "widths": (768,) * 4 + (384,), "groups": (96,) * 4 + (48,), "blocks": 2},
                {"training_step": 1.3},
            ),
            "tiny": Model(2, {"resolution": 8, "widths": (32, 16), "groups": (4, 2), "blocks": 1}),
        },
        ("forward", "generator_step", "training_step"),
    ),
    "rosinality": Codebase(
        "rosinality's stylegan2-pytorch", ("model.py", "op/upfirdn2d.py"), _rosinality, _rosinality_shim,
        {
            "128": Model(4, {"resolution": 128, "channel_multiplier": 2, "mapping_layers": 8}),
            "tiny": Model(2, {"resolution": 8, "channel_multiplier": 1, "mapping_layers": 2}),
        },
    ),
}  # fmt: skip


MISSING = {"requests": {}, "pkg_resources": {"parse_version": TorchVersion}}
"""Packages that the codebases import for downloads and for comparing versions: what serves where one is not installed."""


@contextmanager
def networks_of(codebase: Codebase, tree: Path, settings: Mapping[str, Any]) -> Iterator[Networks]:
    """The networks of a checkout with random weights; inside the block its modules can be imported.

    Raises:
        BenchError: the folder is no such checkout, or its networks cannot be made.
    """
    missing = [name for name in codebase.needs if not (tree / name).is_file()]
    if missing:
        raise BenchError(f"--tree {tree}: not a checkout of {codebase.title}: {', '.join(missing)} not found")
    before = set(sys.modules)
    for name, inside in MISSING.items():
        if importlib.util.find_spec(name) is None:
            sys.modules[name] = ModuleType(name)
            vars(sys.modules[name]).update(inside)
    sys.path.insert(0, str(tree))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                torch.manual_seed(0)
                made = codebase.build(settings)
            except Exception as error:
                raise BenchError(f"--tree {tree}: its networks cannot be made: {type(error).__name__}: {error}") from error
            fill(made.generator)
            fill(made.discriminator)
            yield made
    finally:
        sys.path.remove(str(tree))
        for name in set(sys.modules) - before:
            file = getattr(sys.modules[name], "__file__", None)
            if name in MISSING or (file is not None and Path(file).is_relative_to(tree)):
                del sys.modules[name]
