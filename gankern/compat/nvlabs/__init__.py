"""stylegan2-ada-pytorch, stylegan3, StyleGAN-XL, StyleGAN-T, EG3D, R3GAN and others with ``torch_utils.ops``, on gankern.

    from gankern.compat import nvlabs

    nvlabs.install()  # before or after the codebase is imported

While the shim is installed

- the functions of ``torch_utils.ops.*`` are gankern's, in modules that are imported already and in those that will be, and
  wherever they have been bound by ``from ... import``. No plugin is compiled. ``impl='ref'`` runs the reference;
- ``conv2d_gradfix.enabled`` and ``grid_sample_gradfix.enabled`` are True, and can be written: False is torch's own function;
- ``modulated_conv2d`` of a codebase is :func:`gankern.ops.modulated_conv2d`, found by its signature (StyleGAN2's or
  StyleGAN3's) and compared with the original by a small example;
- network modules that call ``nn.functional.conv2d`` (R3GAN) see gankern's there; torch itself is not changed;
- modules that newer versions of Python, setuptools and torch have no more (``pkg_resources``, ``distutils``, ``torch._six``),
  and ``dnnlib`` and ``torch_utils`` where there is no checkout, are supplied.

Codebases that lie in a package (``models.stylegan3.torch_utils.ops``) are found, too. ``uninstall`` takes all of it back.
Installations are counted: each ``install`` needs its ``uninstall``. Functions are replaced where they are globals of modules;
what holds one otherwise (an attribute of an object, a default argument) keeps the original.

:func:`load` reads official network pickles, :func:`check` compares a checkout with what the shim serves.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager

from gankern.compat.nvlabs._check import Check, check
from gankern.compat.nvlabs._load import load
from gankern.compat.nvlabs._shim import SHIM


def install(*, modulated_conv: bool = True, functional_conv: bool = True, tree: str | os.PathLike[str] | None = None) -> None:
    """Put gankern's operators under the names of ``torch_utils.ops``.

    Args:
        modulated_conv: replace the codebase's ``modulated_conv2d``. Default True.
        functional_conv: show network modules gankern's ``nn.functional.conv2d`` and ``conv_transpose2d``. Default True.
        tree: folder of the checkout, to have its names compared first. Default None: no comparison; a checkout whose modules
            lack names gives one warning when it is imported.

    Raises:
        TypeError: an argument of a wrong type.
        ValueError: ``tree`` has other names than the shim serves (the message lists what was found and what was not), or the
            shim is installed with other options.
        NotADirectoryError: ``tree`` is no folder.
    """
    SHIM.install(**_options(modulated_conv, functional_conv, tree))


def uninstall() -> None:
    """Take back one :func:`install`; the last one restores everything.

    Raises:
        RuntimeError: the shim is not installed.
    """
    SHIM.uninstall()


def installed(
    *, modulated_conv: bool = True, functional_conv: bool = True, tree: str | os.PathLike[str] | None = None
) -> AbstractContextManager[None]:
    """Scope in which the shim is installed; arguments and errors as of :func:`install`."""
    return SHIM.installed(**_options(modulated_conv, functional_conv, tree))


def is_installed() -> bool:
    """Whether the shim is installed."""
    return SHIM.active


def _options(modulated_conv: bool, functional_conv: bool, tree: str | os.PathLike[str] | None) -> dict[str, bool]:
    for name, value in (("modulated_conv", modulated_conv), ("functional_conv", functional_conv)):
        if not isinstance(value, bool):
            raise TypeError(f"install: {name} must be a bool, got {value!r}")
    if tree is not None:
        found = check(tree)
        if not found.matches:
            raise ValueError(f"install: tree {found}")
    return {"modulated_conv": modulated_conv, "functional_conv": functional_conv}


__all__ = ["Check", "check", "install", "installed", "is_installed", "load", "uninstall"]
