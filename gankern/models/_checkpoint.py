"""Checkpoints: one file with the config and the weights of both networks, and what training needs to go on."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from gankern._files import replacing
from gankern.models._registry import FAMILIES, GAN, from_config

FORMAT = "gankern-checkpoint 1"


@dataclass
class Checkpoint:
    """What a checkpoint holds.

    Attributes:
        gan: both networks, with their weights.
        ema: state_dict of the averaged generator, or None.
        state: whatever training wrote beside them: optimizers, random states, step, settings.
    """

    gan: GAN
    ema: dict[str, Any] | None = None
    state: dict[str, Any] = field(default_factory=dict)


def save_checkpoint(
    path: str | os.PathLike[str], gan: GAN, ema: Mapping[str, Any] | None = None, state: Mapping[str, Any] | None = None
) -> None:
    """Write a checkpoint, whole or not at all: the file takes its name when everything is on the disk.

    Args:
        path: the file.
        gan: both networks.
        ema: state_dict of the averaged generator, if there is one.
        state: more to be kept: tensors, numbers, strings, and dicts, lists and tuples of them.
    """
    content = {
        "format": FORMAT,
        "family": gan.config.family,
        "config": gan.config.to_dict(),
        "generator": gan.generator.state_dict(),
        "discriminator": gan.discriminator.state_dict(),
        "ema": None if ema is None else dict(ema),
        "state": dict(state or {}),
    }
    with replacing(path) as temporary:
        torch.save(content, temporary)


def load_checkpoint(path: str | os.PathLike[str], ops: str = "fused", device: str | torch.device = "cpu") -> Checkpoint:
    """Read a checkpoint that :func:`save_checkpoint` wrote, without running any code from it (weights_only).

    Args:
        path: the file.
        ops: 'fused' or 'reference', for the networks.
        device: where to put them.

    Returns:
        The networks with their weights, and the rest.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a truncated file, or not a checkpoint of gankern, or of a family that this version does not know.
    """
    if not os.path.exists(path):
        raise FileNotFoundError(f"no checkpoint {os.fspath(path)!r}")
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # whatever bytes that are no checkpoint make of an unpickler
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{os.fspath(path)!r} is truncated or not a checkpoint of gankern: {reason}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"{os.fspath(path)!r} is not a checkpoint of gankern ({FORMAT!r}): its format is {found!r}")
    if content["family"] not in FAMILIES:
        raise ValueError(f"{os.fspath(path)!r} is of the unknown family {content['family']!r}; known: {', '.join(FAMILIES)}")
    gan = from_config(FAMILIES[content["family"]].config.from_dict(content["config"]), ops).to(device)
    gan.generator.load_state_dict(content["generator"])
    gan.discriminator.load_state_dict(content["discriminator"])
    return Checkpoint(gan, content["ema"], content["state"])


__all__ = ["Checkpoint", "load_checkpoint", "save_checkpoint"]
