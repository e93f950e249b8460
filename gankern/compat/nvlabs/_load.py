"""Official pickles, without a checkout and without a GPU."""

from __future__ import annotations

import io
import os
import pickle
from typing import IO, Any

import torch

from gankern.compat.nvlabs import _shim


def load(file: str | os.PathLike[str] | IO[bytes], trust: bool = False, device: str | torch.device = "cpu") -> Any:
    """Load a network pickle of StyleGAN2-ADA, StyleGAN3 or another codebase of the family, on gankern's operators.

    The pickle brings the source of its networks, which runs. Their ``modulated_conv2d`` is replaced, and what they import
    (``torch_utils``, ``dnnlib``) comes from a checkout on ``sys.path`` or, without one, from gankern. The networks stay on
    gankern's operators when the shim is not installed (any more), can be deep-copied and pickled again.

    Args:
        file: path of the pickle, or a file opened for reading bytes. A URL is to be downloaded before.
        trust: True says that the file comes from someone you trust: a pickle can run any code. Default False.
        device: where to put modules and tensors. Default 'cpu', also for pickles made on a GPU.

    Returns:
        What was pickled; of official files a dict with the modules ``G``, ``D`` and ``G_ema``, and more.

    Raises:
        ValueError: ``trust`` is not True, or the file is no such pickle, or one of TensorFlow's StyleGAN.
        TypeError: ``file`` is neither a path nor a file opened for bytes.
        FileNotFoundError: no such file.
        ModuleNotFoundError: the networks import a module that is not there (that of a checkout, or scipy, for example).
    """
    if trust is not True:
        raise ValueError(
            "load: a pickle can run any code on your machine when it is loaded, and this kind does run the source of its "
            f"networks; pass trust=True if {_name(file)} comes from someone you trust, got trust={trust!r}"
        )
    if isinstance(file, (str, os.PathLike)):
        with open(file, "rb") as opened:
            return load(opened, trust, device)
    if not hasattr(file, "read"):
        raise TypeError(f"load: file must be a path or a file opened for reading bytes, got {type(file).__name__}")
    with _shim.needed(), _shim.loading():
        try:
            content = _Unpickler(file).load()
        except (pickle.UnpicklingError, EOFError) as error:
            raise ValueError(f"load: {_name(file)} is truncated or not a pickle: {error}") from error
        except ModuleNotFoundError as error:
            message = (f"load: the networks in {_name(file)} import {error.name!r}, which is not there: install it, or put the "
                       "checkout of their codebase on sys.path")  # fmt: skip
            raise ModuleNotFoundError(message, name=error.name) from error
    return _moved(content, torch.device(device))


def _name(file: Any) -> str:
    return repr(os.fspath(file)) if isinstance(file, (str, os.PathLike)) else repr(getattr(file, "name", "the file"))


class _Unpickler(pickle.Unpickler):
    """Puts tensors of any device on the CPU."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        if (module_name, global_name) == ("torch.storage", "_load_from_bytes"):
            return _storage_on_cpu
        if module_name.startswith("dnnlib.tflib"):
            raise ValueError(
                "load: a pickle of TensorFlow's StyleGAN: convert it with legacy.py of stylegan2-ada-pytorch first"
            )
        return super().find_class(module_name, global_name)


def _storage_on_cpu(data: bytes) -> Any:
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=False)


def _moved(value: Any, device: torch.device) -> Any:
    """Modules and tensors of dicts, lists and tuples on ``device``."""
    if isinstance(value, (torch.nn.Module, torch.Tensor)):
        return value.to(device)
    if isinstance(value, dict):
        for key, one in list(value.items()):
            value[key] = _moved(one, device)
    elif isinstance(value, list):
        value[:] = [_moved(one, device) for one in value]
    elif type(value) is tuple:
        return tuple(_moved(one, device) for one in value)
    return value
