"""``gankern.compile_generator`` beside the module, eager PyTorch, its convolutions alone and onnxruntime.

- ``compiled_generator``: every family at the size of ``models.py``, against eager PyTorch (``ops='reference'``), with the fused
  module (``module``), the compiled plan's convolutions alone (``plain_conv``) and onnxruntime (``onnxruntime``) beside it.
- :func:`measure`: the same of any size, as ``python -m benchmarks.inference`` prints it.

The convolutions alone are the plan's own calls on images of their shapes and layouts, packed or PyTorch's own, whichever was
the faster one when compiling, with biases and activations that were folded into them: what remained if everything else cost
nothing. Noise is 'const' throughout, of a strength that is not 0: as in a trained generator.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gankern._dispatch import OpSpec
from gankern._samples import Sample
from gankern._scopes import own_random
from gankern.bench.models import MODELS, small_config
from gankern.inference import CompiledGenerator, compile_generator
from gankern.models import ModelConfig, example_inputs, from_config

if TYPE_CHECKING:
    from gankern.bench.rows import Row

CONTENDERS = ("compiled", "module", "eager", "plain_conv", "onnxruntime")
_STATE, _GIVEN = "gan.generator.", "generator_"
_kept: dict[str, Any] = {}


def settings_of(family: str) -> dict[str, Any]:
    """Arguments of forward: constant noise where there is noise."""
    return {"noise_mode": "const"} if family in ("stylegan", "stylegan2") else {}


def generators(config: ModelConfig, seed: int = 0) -> tuple[nn.Module, nn.Module]:
    """The generator in evaluation mode, fused and of plain PyTorch with the same parameters; noise strengths are 0.1."""
    with own_random(seed):
        fused = from_config(config).generator.eval().requires_grad_(False)
    for name, parameter in fused.named_parameters():
        if name.endswith("noise_strength"):
            parameter.fill_(0.1)
    eager = from_config(config, "reference").generator.eval().requires_grad_(False)
    eager.load_state_dict(fused.state_dict())
    return fused, eager


def plain_convolutions(compiled: CompiledGenerator) -> Callable[[], None]:
    """The convolutions of a compiled generator one after the other, each on images of its own."""
    calls = [convolution.call() for convolution in compiled.plan.convolutions]

    def run() -> None:
        for call in calls:
            call()

    return run


def onnx(generator: nn.Module, inputs: Sequence[Tensor], settings: Mapping[str, Any]) -> Callable[[], Any] | None:
    """The generator as a file in onnxruntime, with as many threads as PyTorch has; None where that is not installed."""
    try:
        import onnxruntime

        from gankern import export

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "generator.onnx"
            written = export.to_onnx(generator, path, *inputs, dynamic_batch=False, check=False, **settings)
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
            options.log_severity_level = 3
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except ImportError:
        return None
    feed = {name: t.numpy() for name, t in zip(written.inputs, inputs, strict=True)}
    return lambda: session.run(None, feed)


def contenders(config: ModelConfig, batch: int, names: Sequence[str] = CONTENDERS) -> tuple[CompiledGenerator, dict[str, Any]]:
    """The compiled generator, and all that is asked for as calls without arguments."""
    settings = settings_of(config.family)
    fused, eager = generators(config)
    given = example_inputs(from_config(config), batch)[0]
    compiled = compile_generator(fused, batch, **settings)
    calls: dict[str, Any] = {
        "compiled": lambda: compiled(*given),
        "module": lambda: fused(*given, **settings),
        "eager": lambda: eager(*given, **settings),
        "plain_conv": plain_convolutions(compiled),
    }
    if "onnxruntime" in names:
        calls["onnxruntime"] = onnx(fused, given, settings)
    return compiled, {name: calls[name] for name in names if calls.get(name) is not None}


def measure(
    config: ModelConfig, batch: int = 1, rounds: int = 5, names: Sequence[str] = CONTENDERS, cpu_time: bool = False
) -> dict[str, float]:
    """Least milliseconds of each contender, in turns.

    Args:
        config: of the family.
        batch: samples. Default 1.
        rounds: turns. Default 5.
        names: contenders, of :data:`CONTENDERS`.
        cpu_time: time of this process' threads in place of the clock on the wall: with one thread, it does not see other
            processes. Default False.

    Returns:
        Milliseconds by name.
    """
    with torch.no_grad():
        _, calls = contenders(config, batch, names)
        clock = time.process_time if cpu_time else time.perf_counter
        best = dict.fromkeys(calls, float("inf"))
        repeats: dict[str, int] = {}
        for name, call in calls.items():
            call()
            begin = time.perf_counter()
            call()
            repeats[name] = max(1, int(0.02 / (time.perf_counter() - begin)))
        for _ in range(rounds):
            for name, call in calls.items():
                begin = clock()
                for _ in range(repeats[name]):
                    call()
                best[name] = min(best[name], (clock() - begin) / repeats[name] * 1e3)
    return best


# ---- rows ------------------------------------------------------------------------------------------------------------------
def _networks(family: str, named: Mapping[str, Any]) -> dict[str, Any]:
    """The networks of a row with its state, kept for the next call with it."""
    key = (family, *(id(v) for v in named.values()))
    if _kept.get("key") != key:
        _kept.clear()
        given = [named[k] for k in sorted(named) if k.startswith(_GIVEN)]
        device, dtype = given[0].device, given[0].dtype
        config = small_config(family)
        state = {k.removeprefix(_STATE): v for k, v in named.items() if k.startswith(_STATE)}
        fused = from_config(config).generator.to(device, dtype).eval()
        eager = from_config(config, "reference").generator.to(device, dtype).eval()
        for network in (fused, eager):
            network.load_state_dict(state)
        made = compile_generator(fused, given[0].shape[0], **settings_of(family))
        _kept.update(key=key, named=named, given=given, module=fused, eager=eager, compiled=made)
    return _kept


def _run(which: str) -> Callable[..., tuple[Tensor, ...]]:
    def run(family: str, **named: Tensor) -> tuple[Tensor, ...]:
        kept = _networks(family, named)
        settings = {} if which == "compiled" else settings_of(family)
        with torch.no_grad():
            images = kept[which](*kept["given"], **settings)
        return images if isinstance(images, tuple) else (images,)

    return run


def _samples() -> list[Sample]:
    """Those of ``model_forward``."""
    return list(MODELS["model_forward"].samples)


INFERENCE = {
    "compiled_generator": OpSpec(
        "compiled_generator", _run("compiled"), _run("eager"), lambda **_: (), table=None, samples=_samples(),
        derivative_order=0, image=_GIVEN + "0",
    )
}  # fmt: skip
"""The rows by name."""


def extras(row: Row, kwargs: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    """What stands beside ours and eager in a row, for ``extras.EXTRAS``."""
    family = kwargs["family"]
    named = {k: v for k, v in kwargs.items() if k != "family"}
    kept = _networks(family, named)
    module, given, settings = kept["module"], kept["given"], settings_of(family)

    def fused() -> Any:
        with torch.no_grad():
            return module(*given, **settings)

    calls: dict[str, Callable[[], Any]] = {"module": fused, "plain_conv": plain_convolutions(kept["compiled"])}
    exported = onnx(module, given, settings) if given[0].device.type == "cpu" and row.dtype == "float32" else None
    return calls if exported is None else {**calls, "onnxruntime": exported}


EXTRAS = dict.fromkeys(INFERENCE, extras)
