"""The machinery of all shims: several at once, and what is restored when something goes wrong."""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from gankern.compat._shims import Changes, CompatWarning, Options, Served, Shim


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package ``shimmed`` with a module ``real``, and a module ``shimmed_user`` that binds its function."""
    (tmp_path / "shimmed").mkdir()
    (tmp_path / "shimmed" / "__init__.py").write_text("")
    (tmp_path / "shimmed" / "real.py").write_text("def f():\n    return 'own'\n")
    (tmp_path / "shimmed_user.py").write_text("from shimmed.real import f\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    yield tmp_path
    for name in list(sys.modules):
        if name.startswith("shimmed"):
            del sys.modules[name]


def names(text: str) -> Any:
    def make(module: ModuleType) -> dict[str, Any]:
        def f() -> str:
            return text

        return {"f": f}

    return make


def test_two_shims_look_at_the_same_module(package: Path) -> None:
    visited: list[tuple[str, str]] = []

    def visit(which: str) -> Any:
        def look(module: ModuleType, changes: Changes, options: Options) -> None:
            if module.__name__.startswith("shimmed"):
                visited.append((which, module.__name__))

        return look

    first = Shim("first", lambda _: [Served("shimmed.real", names("first"))], visit("first"))
    second = Shim("second", lambda _: [Served("shimmed.new", names("second"), "absent")], visit("second"))
    with first.installed(), second.installed():
        user = importlib.import_module("shimmed_user")
        assert user.f() == "first" and importlib.import_module("shimmed.new").f() == "second"
        assert type(user.__loader__).__name__ == "SourceFileLoader"
        assert sorted(visited) == sorted(
            (w, n) for w in ("first", "second") for n in ("shimmed", "shimmed.real", "shimmed_user")
        )
    assert user.f() == "own" and "shimmed.new" not in sys.modules and not hasattr(sys.modules["shimmed"], "new")


def test_replace_does_not_run_the_real_module(package: Path) -> None:
    (package / "shimmed" / "real.py").write_text("raise SystemExit('compiles at import')\n")
    shim = Shim("shim", lambda _: [Served("shimmed.real", names("ours"), "replace")])
    with shim.installed():
        assert importlib.import_module("shimmed_user").f() == "ours"
    assert "shimmed.real" not in sys.modules


def test_absent_gives_way_to_a_real_module(package: Path) -> None:
    shim = Shim("shim", lambda _: [Served("shimmed.real", names("ours"), "absent")])
    with shim.installed():
        assert importlib.import_module("shimmed_user").f() == "own"
    (package / "shimmed" / "real.py").write_text("import not_there_at_all\n")
    for name in ("shimmed.real", "shimmed_user"):
        del sys.modules[name]
    importlib.invalidate_caches()
    with pytest.warns(CompatWarning, match="shim: shimmed.real fails"), shim.installed():
        assert importlib.import_module("shimmed_user").f() == "ours"


def test_an_installation_that_fails_changes_nothing(package: Path) -> None:
    real = importlib.import_module("shimmed.real")
    own, hooks = real.f, list(sys.meta_path)

    def fail(module: ModuleType, changes: Changes, options: Options) -> None:
        if module.__name__ == "shimmed.real":
            changes.set(module, "f", None)
            raise ZeroDivisionError

    shim = Shim("shim", lambda _: [], fail)
    with pytest.raises(ZeroDivisionError):
        shim.install()
    assert not shim.active and real.f is own and sys.meta_path == hooks
    assert isinstance(real.f, types.FunctionType)


def test_needed_takes_the_options_that_are_there(package: Path) -> None:
    seen: list[Options] = []
    shim = Shim("shim", lambda options: (seen.append(options), [])[1])
    with shim.needed(a=1):
        assert shim.active
    with shim.installed(a=2), shim.needed(a=1):
        pass
    assert seen == [{"a": 1}, {"a": 2}] and not shim.active
    with shim.installed(a=2), pytest.raises(ValueError, match="shim: is installed with a=2, cannot be installed with a=1"):
        shim.install(a=1)


def test_what_the_codebase_took_from_elsewhere_stays_elsewhere(package: Path) -> None:
    (package / "shimmed" / "real.py").write_text("from contextlib import nullcontext as f\n")
    (package / "shimmed_user.py").write_text("from contextlib import nullcontext\n")
    user, real = importlib.import_module("shimmed_user"), importlib.import_module("shimmed.real")
    own = real.f
    shim = Shim("only", lambda _: [Served("shimmed.real", names("ours"))])
    with shim.installed():
        assert real.f() == "ours" and user.nullcontext is own
        user.late = real.f
    assert real.f is own and user.nullcontext is own and user.late is own
