"""Feature extractors: what turns images into the numbers that metrics compare."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gankern.metrics._features import Features
from gankern.metrics.digits import load_digits_network, weights_digest

NAMES = ("digits", "pixels", "inception", "inception:FILE", "module:FILE.pt", "module:FILE.py:NAME", "module:PACKAGE:NAME")
INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
INCEPTION_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{INCEPTION_FILE}"
INCEPTION_VARIABLE = "GANKERN_INCEPTION"


class Extractor:
    """A function of images [N, C, H, W] in [-1, 1] that gives :class:`Features`.

    Args:
        name: for messages and results.
        function: images float32 in [-1, 1] to features [N, ...], to (features, logits [N, K]) or to :class:`Features`.
        key: says which features these are, for a cache: others must have another key. None: they cannot be cached.
        device: where ``function`` wants its images. Default: the CPU.

    Attributes:
        name, key, device: as given.
    """

    def __init__(
        self, name: str, function: Callable[[Tensor], Any], key: str | None = None, device: str | torch.device = "cpu"
    ) -> None:
        self.name, self.key, self.device = name, key, torch.device(device)
        self._function = function

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Features:
        """Features on the CPU.

        Raises:
            TypeError, ValueError: the function gave something else, or numbers that are not finite.
        """
        given = self._function(images.to(self.device))
        if isinstance(given, Features):
            values, logits = given.values, given.logits
        elif isinstance(given, (tuple, list)) and len(given) == 2:
            values, logits = given
        else:
            values, logits = given, None
        for what, value in (("features", values), ("logits", logits)):
            if value is None and what == "logits":
                continue
            if not isinstance(value, Tensor):
                raise TypeError(
                    f"extractor {self.name}: {what} must be a torch.Tensor [N, D], or the extractor give (features, logits), "
                    f"got {type(value).__name__}"
                )
            if value.dim() < 2 or len(value) != len(images):
                raise ValueError(f"extractor {self.name}: {what} must be [{len(images)}, D], got {list(value.shape)}")
        try:
            return Features(values.flatten(1).float().cpu(), None if logits is None else logits.flatten(1).float().cpu())
        except ValueError as error:
            raise ValueError(f"extractor {self.name}: {error}") from error


def make_extractor(spec: Any, device: str | torch.device = "cpu") -> Extractor:
    """An extractor from its name or from a user's module.

    Args:
        spec: one of

            - 'digits': a small network trained on scikit-learn's digits (64 features, 10 classes), for grey digits alone;
            - 'pixels': the images themselves, C * H * W numbers;
            - 'inception', 'inception:FILE': torch-fidelity's Inception of 2015 (2048 features, 1008 classes), the one of
              published results, with its weights from FILE, from the file that the environment variable GANKERN_INCEPTION
              names, or from PyTorch's folder of checkpoints; nothing is downloaded;
            - 'module:FILE.pt': a TorchScript file; 'module:FILE.py:NAME' and 'module:PACKAGE.MODULE:NAME': a module, a
              function of images, or a class or function without arguments that makes one. This runs code;
            - an :class:`Extractor`, an nn.Module (which is put into evaluation mode) or a function of images. A function can
              be cached if it has an attribute ``key``.
        device: where to run it.

    Returns:
        The extractor.

    Raises:
        TypeError, ValueError: ``spec`` is none of these, or a file is truncated.
        FileNotFoundError: weights or a file are missing; the message says which, and where they are looked for.
        ImportError: a package is missing; the message says which.
    """
    if isinstance(spec, Extractor):
        return spec
    if isinstance(spec, str):
        kind, _, rest = spec.partition(":")
        if spec == "digits":
            return Extractor("digits", load_digits_network().to(device), f"digits-{weights_digest()}", device)
        if spec == "pixels":
            return Extractor("pixels", _pixels, "pixels", device)
        if kind == "inception":
            return _inception(rest, device)
        if kind == "module" and rest:
            return _of(spec, _loaded(rest), device)
        raise ValueError(f"extractor must be one of {', '.join(NAMES)}, or a module or function, got {spec!r}")
    if callable(spec):
        return _of(getattr(spec, "__qualname__", type(spec).__qualname__), spec, device)
    raise TypeError(f"extractor must be a name ({', '.join(NAMES)}), a module or a function, got {type(spec).__name__}")


def _pixels(images: Tensor) -> Tensor:
    return images.flatten(1)


def _of(name: str, function: Any, device: str | torch.device) -> Extractor:
    if isinstance(function, Extractor):
        return function
    key = getattr(function, "key", None)
    if key is not None and not isinstance(key, str):
        raise TypeError(f"extractor {name}: its attribute key must be a string, got {type(key).__name__}")
    if isinstance(function, nn.Module):
        function = function.to(device).eval()
        if key is None:
            key = f"{type(function).__module__}.{type(function).__qualname__}-{_state_digest(function)}"
    return Extractor(name, function, key, device)


def _state_digest(module: nn.Module) -> str:
    digest = hashlib.sha256(str(module).encode())
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        if isinstance(value, Tensor):
            digest.update(str((value.dtype, tuple(value.shape))).encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _loaded(where: str) -> Any:
    """The object of 'FILE.pt', 'FILE.py:NAME' or 'PACKAGE.MODULE:NAME'."""
    path, colon, name = where.rpartition(":") if ":" in where else (where, "", "")
    if not colon:
        if not os.path.isfile(path):
            raise FileNotFoundError(f"extractor: no file {path!r}; a Python object is given as 'module:PACKAGE.MODULE:NAME'")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # it is what the user has
                return torch.jit.load(path, map_location="cpu")
        except (RuntimeError, OSError) as error:
            raise ValueError(f"extractor: {path!r} is truncated or no TorchScript file: {_first(error)}") from error
    if path.endswith(".py"):
        if not os.path.isfile(path):
            raise FileNotFoundError(f"extractor: no file {path!r}")
        spec = importlib.util.spec_from_file_location(Path(path).stem, path)
        if spec is None or spec.loader is None:
            raise ValueError(f"extractor: {path!r} cannot be imported")
        source = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(source)
    else:
        source = importlib.import_module(path)
    if not hasattr(source, name):
        raise ValueError(f"extractor: {path!r} has no {name!r}")
    found = getattr(source, name)
    # A class of modules, or a function that needs no argument, makes the extractor.
    if isinstance(found, type) or (callable(found) and not isinstance(found, nn.Module) and _takes_nothing(found)):
        found = found()
    if not callable(found):
        raise TypeError(f"extractor: {name!r} of {path!r} must be a module or a function of images, got {type(found).__name__}")
    return found


def _takes_nothing(function: Callable[..., Any]) -> bool:
    import inspect

    try:
        return not inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False


def inception_places(given: str = "") -> list[Path]:
    """Where Inception's weights are looked for, in this order."""
    if given:
        return [Path(given).expanduser()]
    named = os.environ.get(INCEPTION_VARIABLE)
    return [*([Path(named).expanduser()] if named else []), Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_FILE]


def _inception(given: str, device: str | torch.device) -> Extractor:
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError as error:
        raise ImportError(
            f"extractor 'inception' needs torch-fidelity, which does not import ({_first(error)}): pip install torch-fidelity"
        ) from error
    places = inception_places(given)
    path = next((p for p in places if p.is_file()), None)
    if path is None:
        raise FileNotFoundError(
            f"extractor 'inception' needs its weights, {INCEPTION_FILE}, which are at none of: {', '.join(map(str, places))}. "
            f"Fetch {INCEPTION_URL} to one of them, or give the file as 'inception:FILE' or in {INCEPTION_VARIABLE}"
        )
    try:
        network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048", "logits_unbiased"],
                                              feature_extractor_weights_path=str(path))  # fmt: skip
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError, zipfile.BadZipFile, KeyError) as error:
        raise ValueError(
            f"extractor 'inception': {str(path)!r} is truncated or holds other weights: {_first(error)}"
        ) from error
    network = network.to(device).eval()

    def function(images: Tensor) -> tuple[Tensor, Tensor]:
        if images.shape[1] not in (1, 3):
            raise ValueError(f"extractor 'inception': images must have 1 or 3 channels, got {images.shape[1]}")
        whole = ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).expand(-1, 3, -1, -1)
        features, logits = network(whole.contiguous())
        return features, logits

    return Extractor("inception", function, f"inception-{hashlib.sha256(path.read_bytes()).hexdigest()[:16]}", device)


def _first(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


__all__ = ["Extractor", "inception_places", "make_extractor"]
