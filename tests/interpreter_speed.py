"""Triton's interpreter without work that it repeats: what it computes stays the same.

At every call of a jitted function from a kernel it looks through ``triton.language`` for what it has to replace by its own.
The first call of a launch has replaced everything until the launch ends, so that the thousands that follow find nothing: half
of the interpreter's time. Here they do not look.
"""

from __future__ import annotations

import contextlib
from typing import Any


def skip_repeated_patches() -> bool:
    """Install it in this process; False, with nothing changed, where this Triton's interpreter is made differently."""
    try:
        from triton.runtime import interpreter

        patch, scope, executor = interpreter._patch_lang, interpreter._LangPatchScope, interpreter.GridExecutor
        launch = executor.__call__
    except (ImportError, AttributeError):
        return False
    # Of the launch under way: the namespaces whose triton.language has been replaced. None outside of launches.
    replaced: set[int] | None = None

    def patch_once(function: Any) -> Any:
        if replaced is None:
            return patch(function)
        namespace = id(function.__globals__)
        if namespace in replaced:
            return scope()
        replaced.add(namespace)
        return patch(function)

    @contextlib.contextmanager
    def one_launch() -> Any:
        nonlocal replaced
        outer, replaced = replaced, set()
        try:
            yield
        finally:
            replaced = outer

    def launch_once(self: Any, *args: Any, **kwargs: Any) -> None:
        with one_launch():
            launch(self, *args, **kwargs)

    interpreter._patch_lang, executor.__call__ = patch_once, launch_once
    return True
