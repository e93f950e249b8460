"""no_weight_gradients: a scope in which backward computes no gradients of convolution weights.

Three states, because backward runs where a plain variable or a thread-local is not seen:

- the process: a counter under a lock, for scopes that hold in all threads;
- a thread and the backward passes that it starts: kept with what PyTorch's autograd copies into its own threads (the device
  threads that run backward on CUDA, and the pool that runs nested backward passes);
- a graph that is being traced: a scope written inside a compiled function is met while the graph is made, when nothing
  runs yet. Scopes outside a compiled function are met when the compiled code runs: the operator looks then.
"""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Any

import torch

_KEY = "gankern.no_weight_gradients"
_lock = threading.Lock()
_count = 0
_traced = 0


def _own() -> int:
    """How many scopes of this thread, or of the one that started the running backward, are open for that thread only."""
    return int(torch._C._get_obj_in_tls(_KEY)) if torch._C._is_key_in_tls(_KEY) else 0


def weight_gradients_disabled() -> bool:
    """Whether a :class:`no_weight_gradients` scope holds here and now."""
    return _count > 0 or _own() > 0


def skipped_when_traced() -> bool:
    """Whether the graph that is being traced is inside a scope of its own."""
    return _traced > 0


def change(step: int, this_thread: bool) -> None:
    """Open (``step`` 1) or close (-1) a scope."""
    global _count, _traced
    if torch.compiler.is_compiling() or torch._guards.detect_fake_mode() is not None:
        _traced += step
    elif this_thread:
        torch._C._stash_obj_in_tls(_KEY, _own() + step)
    else:
        with _lock:
            _count += step


class no_weight_gradients:
    """Scope in which backward computes no gradients of the weights of gankern's convolutions.

        with no_weight_gradients():
            (g,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)

    In eager mode :func:`conv2d` and :func:`conv_transpose2d` see by themselves that ``torch.autograd.grad(y, x)`` has no use
    for gradients of weights and biases; the scope is for what cannot be seen: compiled functions, ``backward()``, and
    weights that are among the inputs. Weights then get no gradient: None, or zeros from a function that was compiled
    outside the scope. A second derivative that is taken outside the scope is whole.

    Args:
        disable: False makes the scope do nothing. Default True.
        this_thread: hold only for this thread and the backward passes that it starts (whichever threads autograd runs them
            in). Default False: for all threads of the process, so that work handed to other threads is covered; a backward
            pass that another thread is in the middle of then goes without weight gradients, too.

    Raises:
        TypeError: an argument is not a bool.

    Gradients: of inputs and biases as ever; of weights none.
    """

    def __init__(self, disable: bool = True, *, this_thread: bool = False) -> None:
        for name, value in (("disable", disable), ("this_thread", this_thread)):
            if not isinstance(value, bool):
                raise TypeError(f"no_weight_gradients: {name} must be a bool, got {value!r}")
        self.disable, self.this_thread = disable, this_thread

    def __enter__(self) -> None:
        if self.disable:
            if torch.compiler.is_compiling():
                # Imported here, which dynamo does while it traces: importing dynamo takes longer than importing torch.
                from gankern.ops.conv2d.traced_scope import enter

                enter(self.this_thread)
            else:
                change(1, self.this_thread)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.disable:
            if torch.compiler.is_compiling():
                from gankern.ops.conv2d.traced_scope import leave

                leave(self.this_thread)
            else:
                change(-1, self.this_thread)


__all__: list[Any] = ["no_weight_gradients", "skipped_when_traced", "weight_gradients_disabled"]
