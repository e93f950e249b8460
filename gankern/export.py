"""Networks as files for other programs: ``torch.export`` with gankern's operators in the graph, ONNX with standard ones only.

    from gankern import export, models

    generator = models.from_config("stylegan2-256").generator
    export.to_onnx(generator, "generator.onnx", generator.sample_z(2), noise_mode="const")  # any batch; runs without gankern
    program = export.export_program(generator, generator.sample_z(2), noise_mode="const")  # any batch, gankern's kernels
    torch.export.save(program, "generator.pt2")  # torch.export.load wants gankern imported

:func:`standard_operators` makes other tracers, such as ``torch.jit.trace``, see PyTorch's operators.
"""

from __future__ import annotations

import importlib
import inspect
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gankern._dispatch import standard, standard_operators
from gankern._files import replacing
from gankern._optional import optional
from gankern._scopes import evaluating

TOLERANCE, TOLERANCE_HALF = 1e-4, 2e-2
"""Largest difference from PyTorch over the largest output: runtimes may fuse, reorder and approximate."""

LARGEST = 2**31
"""Bytes that one ONNX file can hold: protobuf's limit."""


@dataclass(frozen=True)
class OnnxFile:
    """What :func:`to_onnx` wrote.

    Attributes:
        path: of the file.
        opset: version of ONNX's standard operators.
        inputs: names and shapes; 'batch' where the size is free.
        outputs: likewise.
        operators: how many nodes of each kind the graph has.
        random: whether it draws random numbers.
        difference: the largest difference between onnxruntime's and PyTorch's outputs over the largest of PyTorch's, or None
            where that was not looked at.
    """

    path: Path
    opset: int
    inputs: dict[str, list[int | str]]
    outputs: dict[str, list[int | str]]
    operators: dict[str, int]
    random: bool
    difference: float | None


def export_program(
    model: nn.Module, *inputs: Tensor, dynamic_batch: bool = True, strict: bool = False, **settings: Any
) -> torch.export.ExportedProgram:
    """``torch.export`` of a network in evaluation mode, without gradients, with gankern's operators in the graph.

    Args:
        model: a network, for example a generator of gankern.models.
        *inputs: example inputs, with the samples along dimension 0. A lone sample is doubled, for torch.export would write the
            1 into the program.
        dynamic_batch: the program takes any number of samples. Default True.
        strict: trace Python's bytecode in place of a run; as for ``torch.export.export``. Default False.
        **settings: further arguments of the network's forward; they are written into the program:
            ``noise_mode="const"``, ``truncation=0.7``.

    Returns:
        The program. ``program.module()`` runs it; ``torch.export.save`` and ``torch.export.load`` (which needs gankern to be
        imported) keep it. Exported inside of :func:`standard_operators` it has PyTorch's operators alone.

    Raises:
        TypeError, ValueError: an argument of a wrong type or value, or a network that fixes the size of its batch, as the
            statistics of minibatch standard deviation do.

    Gradients: none, and its parameters ask for none; for programs to be trained, call ``torch.export.export``.
    """
    _check("export_program", model, inputs)
    with evaluating(model), _fused(model) if standard() else nullcontext(), torch.no_grad():
        return _program("export_program", model, inputs, dynamic_batch, strict, settings)


def to_onnx(
    model: nn.Module,
    path: str | os.PathLike[str],
    *inputs: Tensor,
    dynamic_batch: bool = True,
    check: bool = True,
    tolerance: float | None = None,
    opset: int | None = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    **settings: Any,
) -> OnnxFile:
    """Write a network, in evaluation mode, as one ONNX file of standard operators, and compare it with PyTorch in onnxruntime.

    Modulated convolution scales images, convolves all samples with one kernel and scales the result; resampling is padding and
    depthwise convolutions. The file takes its name when all is well; until then, an older file of that name stays.

    Args:
        model: a network, for example a generator of gankern.models, or its ``synthesis`` or ``mapping`` alone; in float32 or,
            where the runtime has kernels for it, float16. Layers that run in float16 on GPUs only are float32 in a file that is
            exported on the CPU.
        path: of the file, for example 'generator.onnx'. Folders are made.
        *inputs: example inputs, with the samples along dimension 0.
        dynamic_batch: the file takes any number of samples. Default True.
        check: run the file in onnxruntime, with other sizes of the batch too where they are free, and compare. Random numbers
            cannot be compared: then shapes alone. Default True.
        tolerance: largest difference over the largest output. Default None: 1e-4, 2e-2 in float16.
        opset: version of ONNX's operators. Default None: what torch.onnx.export takes.
        input_names: default None: those of the network's forward.
        output_names: default None: 'output', or 'output_0', 'output_1', ...
        **settings: further arguments of the network's forward; they are written into the file: ``noise_mode="const"``,
            ``truncation=0.7``. A StyleGAN's own noise_mode is 'random': its noise is then drawn by nodes RandomNormalLike, anew
            in every run (a warning says so); 'const' writes the layers' own noise as constants, 'none' leaves it out.

    Returns:
        What was written.

    Raises:
        TypeError, ValueError: an argument of a wrong type or value, a path that cannot be written, a network that fixes the
            size of its batch, or one that is too large for one file (2 GiB).
        ImportError: onnx, onnxscript or, with ``check``, onnxruntime is missing.
        RuntimeError: the file differs from the network, or onnxruntime cannot run it.

    Needs: ``pip install "gankern[export]"``.
    """
    _check("to_onnx", model, inputs)
    target = _check_path(path)
    names_in = _names("input_names", input_names, _own_names(model, inputs), len(inputs))
    if tolerance is not None and not tolerance > 0:
        raise ValueError(f"to_onnx: tolerance must be positive, got {tolerance!r}")
    size = sum(t.numel() * t.element_size() for t in {id(t): t for t in (*model.parameters(), *model.buffers())}.values())
    if size >= LARGEST:
        raise ValueError(f"to_onnx: model must have less than 2 GiB of parameters for one file, got {size / 2**30:.1f} GiB")
    _need("onnx", "onnxscript", *(["onnxruntime"] if check else []))
    with evaluating(model), _fused(model), torch.no_grad():
        outputs = len(_tensors(model(*inputs, **settings)))
        names_out = _names("output_names", output_names, _numbered(outputs), outputs)
        with standard_operators():
            program = _program("to_onnx", model, inputs, dynamic_batch, False, settings)
            onnx_program = torch.onnx.export(
                program, (), dynamo=True, input_names=names_in, output_names=names_out, opset_version=opset, verbose=False
            )
        assert onnx_program is not None
        with replacing(target) as temporary:
            proto = onnx_program.model_proto
            written = _describe(proto, target)
            importlib.import_module("onnx").save_model(proto, os.fspath(temporary))
            if check:
                written = _compare(temporary, written, model, inputs, names_in, dynamic_batch, tolerance, settings)
    if written.random:
        warnings.warn(
            f"to_onnx: {target.name} draws random numbers anew in every run (nodes RandomNormalLike and their like), which "
            "cannot be compared with PyTorch's; a StyleGAN's noise_mode='const' writes constants, 'none' leaves noise out",
            UserWarning,
            stacklevel=2,
        )
    return written


# ---- tracing ---------------------------------------------------------------------------------------------------------------
class _Bound(nn.Module):
    """A network with some of its arguments given."""

    def __init__(self, model: nn.Module, settings: Mapping[str, Any]) -> None:
        super().__init__()
        self.model = model
        self.settings = dict(settings)

    def forward(self, *inputs: Tensor) -> Any:
        return self.model(*inputs, **self.settings)


def _program(
    name: str, model: nn.Module, inputs: Sequence[Tensor], dynamic_batch: bool, strict: bool, settings: Mapping[str, Any]
) -> torch.export.ExportedProgram:
    shapes: Any = None
    variadic = any(p.kind is p.VAR_POSITIONAL for p in inspect.signature(model.forward).parameters.values())
    traced = _Bound(model, settings).train(False) if settings or variadic else model
    if dynamic_batch:
        if inputs[0].shape[0] == 1:
            inputs = [torch.cat([t, t]) for t in inputs]
        batch = torch.export.Dim("batch")
        shapes = tuple({0: batch} for _ in inputs)
        shapes = (shapes,) if traced is not model or variadic else shapes
    try:
        with _frozen(model):
            return torch.export.export(traced, tuple(inputs), dynamic_shapes=shapes, strict=strict)
    except Exception as error:
        # torch.export has classes of errors for it that differ between its versions and its two ways.
        if dynamic_batch and ("Constraints violated" in str(error) or "specialized" in str(error)):
            raise ValueError(
                f"{name}: model must take any number of samples for dynamic_batch=True, but {type(model).__name__} fixes it "
                f"(as statistics over groups of samples do): dynamic_batch=False exports it for {inputs[0].shape[0]}"
            ) from error
        raise


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Parameters of the same memory that want no gradients: a program keeps those that it is traced with."""
    swapped: list[tuple[nn.Module, str, nn.Parameter]] = []
    frozen: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter.requires_grad:
                swapped.append((module, name, parameter))
                if id(parameter) not in frozen:
                    frozen[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=False)
                module._parameters[name] = frozen[id(parameter)]
    try:
        yield
    finally:
        for module, name, parameter in swapped:
            module._parameters[name] = parameter


@contextmanager
def _fused(model: nn.Module) -> Iterator[None]:
    """No module's own references: that of modulated convolution has as many groups as there are samples."""
    parts: list[Any] = [
        m for m in model.modules() if type(m).__module__.startswith("gankern.") and getattr(m, "reference", False)
    ]
    for part in parts:
        part.reference = False
    try:
        yield
    finally:
        for part in parts:
            part.reference = True


def _tensors(outputs: Any) -> list[Tensor]:
    leaves = torch.utils._pytree.tree_leaves(outputs)
    wrong = [type(leaf).__name__ for leaf in leaves if not isinstance(leaf, Tensor)]
    if wrong or not leaves:
        raise TypeError(f"to_onnx: model must give tensors, or tuples, lists or dicts of tensors, got {wrong or 'nothing'}")
    return leaves


# ---- files -----------------------------------------------------------------------------------------------------------------
def _shape(value: Any) -> list[int | str]:
    return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]


def _describe(proto: Any, target: Path) -> OnnxFile:
    """What stands in a model, which is checked; the symbol of its free size is renamed to 'batch'."""
    graph = proto.graph
    symbol = graph.input[0].type.tensor_type.shape.dim[0].dim_param if graph.input else ""
    for value in (*graph.input, *graph.output, *graph.value_info) if symbol else ():
        for dim in value.type.tensor_type.shape.dim:
            if dim.HasField("dim_param"):
                dim.dim_param = re.sub(rf"\b{re.escape(symbol)}\b", "batch", dim.dim_param)
    importlib.import_module("onnx").checker.check_model(proto, full_check=True)
    nodes = [*graph.node, *(node for function in proto.functions for node in function.node)]
    local = {(function.domain, function.name) for function in proto.functions}
    foreign = sorted({f"{n.domain}::{n.op_type}" for n in nodes if n.domain not in ("", "ai.onnx")
                      and (n.domain, n.op_type) not in local})  # fmt: skip
    if foreign:
        raise RuntimeError(f"to_onnx: the graph has operators that are not ONNX's own: {', '.join(foreign)}")
    operators = Counter(n.op_type for n in nodes if (n.domain, n.op_type) not in local)
    return OnnxFile(
        path=target,
        opset=next(o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")),
        inputs={value.name: _shape(value) for value in graph.input},
        outputs={value.name: _shape(value) for value in graph.output},
        operators=dict(sorted(operators.items())),
        random=any(name.startswith(("Random", "Bernoulli", "Multinomial")) for name in operators),
        difference=None,
    )


def _compare(
    file: Path,
    written: OnnxFile,
    model: nn.Module,
    inputs: Sequence[Tensor],
    names: Sequence[str],
    dynamic_batch: bool,
    tolerance: float | None,
    settings: Mapping[str, Any],
) -> OnnxFile:
    """``written`` with the difference from PyTorch, which must be small."""
    ort = importlib.import_module("onnxruntime")
    count = inputs[0].shape[0]
    batches = [list(inputs)]
    if dynamic_batch:
        batches.append([torch.cat([t, t[:1]]) for t in inputs])
        if count > 1:
            batches.append([t[:1] for t in inputs])
    floating = (*model.parameters(), *model.buffers(), *inputs)
    half = any(t.dtype in (torch.float16, torch.bfloat16) for t in floating)
    limit = tolerance if tolerance is not None else TOLERANCE_HALF if half else TOLERANCE
    largest = 0.0
    try:
        session = ort.InferenceSession(os.fspath(file), providers=["CPUExecutionProvider"])
        taken = {value.name for value in session.get_inputs()}
        results = [
            session.run(None, {n: t.detach().cpu().numpy() for n, t in zip(names, batch, strict=True) if n in taken})
            for batch in batches
        ]
    except Exception as error:
        raise RuntimeError(
            f"to_onnx: onnxruntime {ort.__version__} cannot run what was exported ({str(error).splitlines()[0]}); check=False "
            "writes the file all the same"
        ) from error
    for batch, result in zip(batches, results, strict=True):
        for name, mine, theirs in zip(written.outputs, _tensors(model(*batch, **settings)), result, strict=True):
            if tuple(theirs.shape) != tuple(mine.shape):
                raise RuntimeError(
                    f"to_onnx: {name} is {list(theirs.shape)} in onnxruntime and {list(mine.shape)} in PyTorch, for "
                    f"{batch[0].shape[0]} samples"
                )
            if written.random or not mine.numel():
                continue
            want = mine.detach().cpu().double()
            difference = float((torch.from_numpy(theirs).double() - want).abs().max() / want.abs().max().clamp(min=1e-30))
            if not difference <= limit:
                raise RuntimeError(
                    f"to_onnx: {name} differs by {difference:.2g} of the largest output between onnxruntime and PyTorch, for "
                    f"{batch[0].shape[0]} samples (tolerance {limit:.2g})"
                )
            largest = max(largest, difference)
    return OnnxFile(**{**vars(written), "difference": None if written.random else largest})


# ---- arguments -------------------------------------------------------------------------------------------------------------
def _check(name: str, model: Any, inputs: Sequence[Any]) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"{name}: model must be a torch.nn.Module, got {type(model).__name__}")
    if not inputs:
        raise ValueError(f"{name}: inputs must be at least one example tensor, got none")
    for i, value in enumerate(inputs):
        if not isinstance(value, Tensor):
            raise TypeError(
                f"{name}: inputs must be tensors (settings are named: truncation=0.7), got {type(value).__name__} at {i}"
            )
        if value.dim() == 0 or value.shape[0] == 0:
            raise ValueError(f"{name}: inputs must have samples along dimension 0, got {list(value.shape)} at {i}")
        if value.shape[0] != inputs[0].shape[0]:
            raise ValueError(
                f"{name}: inputs must have as many samples each, got {inputs[0].shape[0]} at 0 and {value.shape[0]} at {i}"
            )
        if name == "to_onnx" and value.dtype == torch.bfloat16:
            raise TypeError(f"{name}: inputs must not be bfloat16, for which runtimes have no kernels (model.float()), at {i}")


def _check_path(path: Any) -> Path:
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"to_onnx: path must be a str or a path, got {type(path).__name__}")
    target = Path(path)
    if not target.name or target.is_dir():
        raise ValueError(f"to_onnx: path must be a file, got the folder {str(target)!r}")
    folder = target.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(
            f"to_onnx: path must be a file that can be written, got {str(target)!r}: {folder} is no folder to write in"
        )
    return target


def _own_names(model: nn.Module, inputs: Sequence[Tensor]) -> list[str]:
    """Those of the forward method's arguments."""
    names: list[str] = []
    for parameter in inspect.signature(model.forward).parameters.values():
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            names.append(parameter.name)
        elif parameter.kind is parameter.VAR_POSITIONAL:
            names += [f"{parameter.name}_{i}" for i in range(len(inputs) - len(names))]
    if len(names) < len(inputs):
        raise ValueError(f"to_onnx: inputs must be at most {len(names)}, which {type(model).__name__} takes, got {len(inputs)}")
    return names[: len(inputs)]


def _numbered(count: int) -> list[str]:
    return ["output"] if count == 1 else [f"output_{i}" for i in range(count)]


def _names(argument: str, given: Sequence[str] | None, default: list[str], count: int) -> list[str]:
    names = default if given is None else list(given)
    if isinstance(given, str) or len(names) != count or len(set(names)) != count or not all(isinstance(n, str) for n in names):
        raise ValueError(f"to_onnx: {argument} must be {count} different names, got {given!r}")
    return names


def _need(*packages: str) -> None:
    for package in packages:
        optional(package, f'to_onnx needs {package}, which cannot be imported ({{error}}): pip install "gankern[export]"')


__all__ = ["OnnxFile", "export_program", "standard_operators", "to_onnx"]
