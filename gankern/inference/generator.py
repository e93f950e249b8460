"""``compile_generator`` and what it gives: the generator's own call, at fixed shapes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gankern.inference._plan import Plan
from gankern.inference._record import tensors
from gankern.inference.compiled import DTYPES, CompiledFunction
from gankern.models._base import LatentGenerator, Model, check_labels
from gankern.models._registry import FAMILIES
from gankern.models._style import StyleGenerator

_MAPPING_SETTINGS = ("truncation", "truncation_cutoff")


def compile_generator(
    generator: nn.Module,
    batch: int = 1,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    *,
    example_inputs: Sequence[Tensor] | None = None,
    static_output: bool = False,
    cuda_graph: bool | None = None,
    **settings: Any,
) -> CompiledGenerator:
    """A generator for inference at one batch size: no dispatch, no checks inside, no allocation that can be spared.

    A copy of the generator runs once, in evaluation mode, and is written down as a flat list of operator calls. What does not
    depend on inputs is computed there and then: scaled weights, sums of squares for demodulation, spectral and batch
    normalisation. Batch normalisation, biases and activations go into the convolutions before them; weights are packed for
    oneDNN; StyleGAN's layers become scale, convolution, scale, with one pass over each convolution's output that demodulates,
    adds noise and bias, activates, clamps, applies the next layer's style and accumulates the RGB output. Memory is laid out
    beforehand. On a GPU the list is captured in one CUDA graph.

    Args:
        generator: of gankern.models, or any module of tensors in, tensors out (then with ``example_inputs``), for example
            one that :func:`gankern.patch` has treated. It stays as it is: mode, gradients and parameters.
        batch: samples of every call. Default 1. Another number is refused: a smaller batch that was filled up would cost as
            much as a full one, and change the results of networks that look across samples.
        dtype: float32, bfloat16, float16 or float64, of weights and images. Default None: the generator's own.
        device: where it runs. Default None: where the generator is.
        example_inputs: tensors of the shapes that calls will have; in place of ``batch``. Default None: made from the
            generator's config.
        static_output: give a buffer that the next call may overwrite, in place of a fresh tensor. Default False.
        cuda_graph: capture one CUDA graph. Default None: on a GPU.
        **settings: further arguments of the generator's forward, fixed here: ``noise_mode='const'``, ``truncation=0.7``.

    Returns:
        A :class:`CompiledGenerator`: ``compiled(z)``, ``compiled(z, labels)``, as the generator.

    Raises:
        TypeError, ValueError: an argument of a wrong type or value; a generator with forward hooks, with control flow that
            depends on data, or that writes into its own buffers.

    Gradients: none.

    Source: scale-convolve-scale from Karras et al. 2020, section 2.2; CUDA graphs: torch.cuda.CUDAGraph.
    """
    if not isinstance(generator, nn.Module):
        raise TypeError(f"compile_generator: generator must be a torch.nn.Module, got {type(generator).__name__}")
    if isinstance(batch, bool) or not isinstance(batch, int):
        raise TypeError(f"compile_generator: batch must be an int, got {type(batch).__name__}")
    if batch < 1:
        raise ValueError(f"compile_generator: batch must be at least 1, got {batch}")
    own = next((p for p in (*generator.parameters(), *generator.buffers()) if p.is_floating_point()), None)
    dtype = dtype or (torch.float32 if own is None else own.dtype)
    if dtype not in DTYPES:
        raise ValueError(f"compile_generator: dtype must be float32, bfloat16, float16 or float64, got {dtype!r}")
    where = torch.device(device) if device is not None else torch.device("cpu") if own is None else own.device
    if where.type not in ("cpu", "cuda"):
        raise ValueError(f"compile_generator: device must be a CPU or a CUDA device, got {str(where)!r}")
    if cuda_graph and where.type != "cuda":
        raise ValueError(f"compile_generator: cuda_graph needs a CUDA device, got {str(where)!r}")
    for name, part in generator.named_modules():
        if part._forward_hooks or part._forward_pre_hooks:
            raise ValueError(
                f"compile_generator: {name or 'the generator'} has forward hooks, which a compiled generator would not call; "
                "remove them first"
            )
    if own is not None and own.device.type == "meta":
        raise ValueError("compile_generator: the generator is on the meta device: it has no weights")
    signature = inspect.signature(generator.forward)
    inputs = _inputs(generator, signature, batch, example_inputs)
    for name, value in settings.items():
        accepts = name in signature.parameters or any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
        if not accepts or name in inputs:
            names = [n for n in signature.parameters if n not in inputs]
            raise TypeError(
                f"compile_generator: {type(generator).__name__} has no setting {name!r}; it takes {', '.join(names)}"
            )
        if tensors(value):
            raise TypeError(f"compile_generator: setting {name!r} must not be a tensor: settings are fixed when compiling")
    graph = where.type == "cuda" if cuda_graph is None else cuda_graph
    return CompiledGenerator(generator, inputs, dtype, where, static_output, graph, settings)


def _inputs(
    generator: nn.Module, signature: inspect.Signature, batch: int, examples: Sequence[Tensor] | None
) -> dict[str, Tensor]:
    """Example tensors by the names of forward's arguments."""
    names = list(signature.parameters)
    if examples is not None:
        if isinstance(examples, Tensor) or not all(isinstance(t, Tensor) for t in examples) or not examples:
            raise TypeError("compile_generator: example_inputs must be a sequence of tensors, and not empty")
        several = [p.name for p in signature.parameters.values() if p.kind is p.VAR_POSITIONAL]
        if several or len(names) < len(examples):
            names = [f"input_{i}" for i in range(len(examples))]
        return dict(zip(names, examples, strict=False))
    if not isinstance(generator, Model):
        raise TypeError(
            f"compile_generator: example_inputs must be given for a {type(generator).__name__}, which is no generator of "
            "gankern.models"
        )
    random = torch.Generator().manual_seed(0)
    if isinstance(generator, LatentGenerator):
        made = {names[0]: torch.randn(batch, generator.z_dim, generator=random)}
        if "labels" in names and generator.num_classes:
            made["labels"] = torch.arange(batch) % generator.num_classes
        return made
    family = FAMILIES.get(generator.config.family)
    if family is None or family.task not in ("paired", "unpaired"):
        raise TypeError(f"compile_generator: example_inputs must be given for a {type(generator).__name__}")
    own, height, width = generator.image_shape
    channels = getattr(generator.config, "in_channels", None) or own
    count = 2 if family.task == "unpaired" and "b" in names else 1
    return {n: torch.rand(batch, channels, height, width, generator=random) * 2 - 1 for n in names[:count]}


class CompiledGenerator:
    """A generator at fixed shapes; made by :func:`compile_generator`.

    Call it as the generator: ``compiled(z)``, ``compiled(z, labels)``, ``compiled(images)``. Arguments that are no tensors are
    fixed when compiling; the same value may be given again, another one is a ValueError. One call at a time: a lock makes other
    threads wait.

    Attributes:
        generator: the network that it was compiled from.
        batch: samples of a call.
        dtype: of weights and images.
        device: where it runs.
        settings: arguments that were fixed.
        synthesis: of a style-based generator: ``compiled.synthesis(ws)`` with w [batch, num_ws, w_dim], compiled at first use.
        mapping: likewise ``compiled.mapping(z)`` or ``compiled.mapping(z, labels)`` to w, truncated as fixed.
    """

    def __init__(
        self,
        generator: nn.Module,
        inputs: Mapping[str, Tensor],
        dtype: torch.dtype,
        device: torch.device,
        static_output: bool,
        cuda_graph: bool,
        settings: Mapping[str, Any],
    ) -> None:
        self.generator, self.dtype, self.device, self.settings = generator, dtype, device, dict(settings)
        self.batch = next(iter(inputs.values())).shape[0]
        self._inputs = dict(inputs)
        self._options = (dtype, device, static_output, cuda_graph)
        self._signature = inspect.signature(generator.forward)
        self._latent = isinstance(generator, LatentGenerator)
        self._parts: dict[str, CompiledFunction] = {}
        self._whole = self._function(
            lambda module, *given: module(*_arranged(self._signature, inputs, given), **self.settings), inputs
        )

    def _function(self, call: Callable[..., Any], inputs: Mapping[str, Tensor]) -> CompiledFunction:
        return CompiledFunction(self.generator, call, list(inputs), list(inputs.values()), *self._options)

    def __call__(self, *args: Any, out: Any = None, **kwargs: Any) -> Any:
        """Run.

        Args:
            *args: as the generator's; tensors of the shapes that were compiled, on any device, any floating-point dtype.
            out: tensor of the output's shape to copy the result into, or None. Default None.
            **kwargs: as the generator's.

        Returns:
            What the generator returns, contiguous, in a fresh tensor; with ``static_output`` in one that the next call
            may overwrite.

        Raises:
            TypeError, ValueError: tensors of another shape or kind; labels out of range; another value than what was fixed.
        """
        if kwargs or len(args) != len(self._inputs):
            args = tuple(self._bound(args, kwargs))
        if self._latent:
            self._check_labels(args)
        if out is not None:
            return self._into(args, out)
        return self._whole(*args)

    def _into(self, args: Sequence[Any], out: Any) -> Any:
        if not isinstance(out, Tensor):
            raise TypeError(f"compiled generator: out must be a tensor, got {type(out).__name__}")
        expected = self._whole.output_shapes
        if len(expected) != 1 or out.shape != expected[0]:
            raise ValueError(f"compiled generator: out must be {[list(s) for s in expected]}, got {list(out.shape)}")
        result = tensors(self._whole(*args))[0]
        with torch.no_grad():
            return out.copy_(result)

    def _check_labels(self, args: Sequence[Any]) -> None:
        names = list(self._inputs)
        if "labels" not in names:
            return
        labels = args[names.index("labels")]
        if isinstance(labels, Tensor):
            check_labels("compiled generator", labels, self.generator.num_classes, self.batch)  # type: ignore[arg-type]

    def _bound(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
        """The tensors among the arguments; the others must be what was fixed."""
        try:
            given = self._signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise TypeError(f"compiled generator: {error}") from None
        named: dict[str, Any] = {}
        for name, value in given.items():
            kind = self._signature.parameters[name].kind
            if kind is inspect.Parameter.VAR_KEYWORD:
                named |= value
            elif kind is inspect.Parameter.VAR_POSITIONAL:
                named |= {f"input_{i}": v for i, v in enumerate(value)}
            else:
                named[name] = value
        for name, value in named.items():
            if name in self._inputs:
                continue
            parameter = self._signature.parameters.get(name)
            default = None if parameter is None or parameter.default is inspect.Parameter.empty else parameter.default
            fixed = self.settings.get(name, default)
            if isinstance(value, Tensor) or value != fixed:
                shown = f"a tensor {list(value.shape)}" if isinstance(value, Tensor) else repr(value)
                raise ValueError(
                    f"compiled generator: {name} was fixed as {fixed!r} when compiling, got {shown}; compile another one with "
                    f"{name}=..."
                )
        missing = [n for n in self._inputs if n not in named]
        if missing:
            raise TypeError(f"compiled generator: {', '.join(missing)} must be given")
        return [named[n] for n in self._inputs]

    def _part(self, name: str) -> CompiledFunction:
        generator = self.generator
        if not isinstance(generator, StyleGenerator):
            raise AttributeError(f"{type(generator).__name__} is no style-based generator: it has no {name} of its own")
        if name not in self._parts:
            if name == "mapping":
                fixed = {k: v for k, v in self.settings.items() if k in _MAPPING_SETTINGS}
                keys = {k: self._inputs[k] for k in self._inputs if k in ("z", "labels")}
                made = self._function(lambda module, *given: module.mapping(*given, **fixed), keys)
            else:
                rest = {k: v for k, v in self.settings.items() if k not in _MAPPING_SETTINGS}
                ws = torch.randn(self.batch, generator.num_ws, generator.w_dim, generator=torch.Generator().manual_seed(0))
                made = self._function(lambda module, w: module.synthesis(w, **rest), {"ws": ws})
            self._parts[name] = made
        return self._parts[name]

    @property
    def synthesis(self) -> CompiledFunction:
        """W [batch, num_ws, w_dim] to images, compiled at first use."""
        return self._part("synthesis")

    @property
    def mapping(self) -> CompiledFunction:
        """Latents (and labels) to w [batch, num_ws, w_dim], compiled at first use."""
        return self._part("mapping")

    @property
    def plan(self) -> Plan:
        """What a call runs: the flat function, its source and its sizes."""
        return self._whole.plan

    def update(self) -> None:
        """Take the generator's parameters and buffers as they are now: compiles again, with what was measured before."""
        for part in (self._whole, *self._parts.values()):
            part.update()

    def describe(self) -> str:
        """What runs, in words: steps, folded calls, bytes of weights and buffers, FLOP of the convolutions."""
        settings = ", ".join(f"{k}={v!r}" for k, v in self.settings.items())
        return f"{type(self.generator).__name__}({settings}), compiled for a batch of {self.batch}\n{self._whole.describe()}"

    def __repr__(self) -> str:
        plan = self._whole.plan
        return (
            f"CompiledGenerator({type(self.generator).__name__}, batch={self.batch}, dtype={self.dtype}, "
            f"device={str(self.device)!r}, steps={plan.steps})"
        )


def _arranged(signature: inspect.Signature, inputs: Mapping[str, Tensor], given: Sequence[Tensor]) -> list[Any]:
    """Positional arguments of forward: the tensors, and defaults before them where tensors are not the first ones."""
    by_name = dict(zip(inputs, given, strict=True))
    if not all(name in signature.parameters for name in inputs):
        return list(given)
    made: list[Any] = []
    for name, parameter in signature.parameters.items():
        if not by_name:
            break
        made.append(by_name.pop(name) if name in by_name else parameter.default)
    return made


__all__ = ["CompiledGenerator", "compile_generator"]
