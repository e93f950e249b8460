"""Modules that such codebases import and that newer versions of Python, setuptools or torch have no more."""

from __future__ import annotations

import importlib.metadata
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

from gankern.compat._shims import Served


def _version_module() -> Any:
    """packaging.version, which setuptools' and distutils' classes have become; torch brings a copy."""
    try:
        import packaging.version as version
    except ImportError:
        from torch._vendor.packaging import version  # type: ignore[no-redef]
    return version


def pkg_resources_names(_: ModuleType) -> dict[str, Any]:
    """What setuptools dropped in 2025: parse_version, get_distribution, DistributionNotFound, packaging."""
    version = _version_module()

    def get_distribution(dist: str) -> Any:
        return SimpleNamespace(project_name=dist, version=importlib.metadata.version(dist))

    return {
        "parse_version": version.parse,
        "get_distribution": get_distribution,
        "DistributionNotFound": importlib.metadata.PackageNotFoundError,
        "packaging": SimpleNamespace(version=version),
    }


def distutils_version_names(_: ModuleType) -> dict[str, Any]:
    """Python 3.12 dropped distutils: LooseVersion and StrictVersion, which compare as packaging's do, also with strings."""
    version = _version_module()

    class LooseVersion(version.Version):  # type: ignore[misc, name-defined]
        @staticmethod
        def _other(value: Any) -> Any:
            return version.Version(value) if isinstance(value, str) else value

        def __lt__(self, other: Any) -> bool:
            return bool(super().__lt__(self._other(other)))

        def __le__(self, other: Any) -> bool:
            return bool(super().__le__(self._other(other)))

        def __eq__(self, other: Any) -> bool:
            return bool(super().__eq__(self._other(other)))

        def __ge__(self, other: Any) -> bool:
            return bool(super().__ge__(self._other(other)))

        def __gt__(self, other: Any) -> bool:
            return bool(super().__gt__(self._other(other)))

        def __ne__(self, other: Any) -> bool:
            return not self == other

        __hash__ = version.Version.__hash__

    class StrictVersion(LooseVersion):
        pass

    return {"LooseVersion": LooseVersion, "StrictVersion": StrictVersion}


def strtobool(val: str) -> int:
    """1 for y, yes, t, true, on and 1, 0 for n, no, f, false, off and 0, else ValueError."""
    value = val.lower()
    if value in ("y", "yes", "t", "true", "on", "1"):
        return 1
    if value in ("n", "no", "f", "false", "off", "0"):
        return 0
    raise ValueError(f"invalid truth value {val!r}")


def six_names(_: ModuleType) -> dict[str, Any]:
    """What torch 2 dropped."""
    import collections.abc

    return {"inf": torch.inf, "nan": torch.nan, "string_classes": (str, bytes), "int_classes": int,
            "container_abcs": collections.abc, "PY3": True, "PY37": True}  # fmt: skip


def served_old_modules() -> list[Served]:
    """Only where there is no such module."""
    return [
        Served("pkg_resources", pkg_resources_names, "absent"),
        Served("distutils", lambda _: {}, "absent", package=True),
        Served("distutils.util", lambda _: {"strtobool": strtobool}, "absent"),
        Served("distutils.version", distutils_version_names, "absent"),
        Served("torch._six", six_names, "absent"),
    ]
