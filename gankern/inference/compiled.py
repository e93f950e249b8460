"""``compile_generator``: a generator as one flat list of calls on memory that is laid out beforehand."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gankern._scopes import own_random
from gankern.inference import _convolutions, _factors, _styles
from gankern.inference._plan import Plan, Planner, restore
from gankern.inference._record import plain, record, storage_of, tensors

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


class CompiledFunction:
    """A function of tensors of fixed shapes, compiled.

    Args:
        module: what is compiled; a copy of it is recorded.
        call: how to call the copy: ``call(copy, *tensors)``.
        names: of the inputs, for messages.
        examples: tensors whose shapes and dtypes the inputs will have.
        dtype: of parameters and floating-point inputs.
        device: where it runs.
        static_output: give the static buffers.
        cuda_graph: capture a CUDA graph.
    """

    def __init__(
        self,
        module: nn.Module,
        call: Callable[..., Any],
        names: Sequence[str],
        examples: Sequence[Tensor],
        dtype: torch.dtype,
        device: torch.device,
        static_output: bool,
        cuda_graph: bool,
    ) -> None:
        self._module, self._call, self._names = module, call, list(names)
        self._examples = [t.detach().clone() for t in examples]
        self._dtype, self._device = dtype, device
        self._static_output, self._cuda_graph = static_output, cuda_graph
        self._device_type = device.type
        self._expected = [(t.shape, t.dtype) for t in self._examples]
        self._lock = threading.Lock()
        self._take(*self._compile())

    def _compile(self) -> tuple[Plan, Any]:
        module = _frozen_copy(self._module, self._dtype, self._device)
        inputs = [t.to(self._device, self._dtype if t.is_floating_point() else t.dtype, copy=True) for t in self._examples]
        protected = {storage_of(t): name for name, t in (*module.named_parameters(), *module.named_buffers())}
        with plain(), own_random(0, self._device):
            program = record(lambda *given: self._call(module, *given), inputs, protected)
            if not tensors(program.outputs):
                raise TypeError(f"compile_generator: the network must return tensors, got {type(program.outputs).__name__}")
            _styles.link(program)
            _styles.merge_products(program)
            _factors.merge(program)
            _convolutions.fold(program)
            plan = Planner(program).plan()
            for example, buffer in zip(self._examples, plan.inputs, strict=True):
                buffer.copy_(example)
            graph = self._capture(plan) if self._cuda_graph else None
        return plan, graph

    def _capture(self, plan: Plan) -> Any:
        """The plan as one CUDA graph, with its outputs; noise goes on from the device's own random numbers."""
        graph = torch.cuda.CUDAGraph()
        side = torch.cuda.Stream(self._device)
        side.wait_stream(torch.cuda.current_stream(self._device))
        with torch.no_grad(), torch.cuda.stream(side):
            for _ in range(3):  # libraries choose algorithms and make workspaces, which a capture must not
                plan.run()
        torch.cuda.current_stream(self._device).wait_stream(side)
        with torch.no_grad(), torch.cuda.graph(graph):
            outputs = plan.run()
        return graph, outputs

    def update(self) -> None:
        """Take the module's parameters and buffers as they are now."""
        with self._lock:
            self._take(*self._compile())

    def _take(self, plan: Plan, graph: Any) -> None:
        self.plan, self._graph = plan, graph
        # Which outputs can be given as they are: those that nothing else holds.
        self._kept = [own and graph is None for own in plan.fresh]

    def __call__(self, *inputs: Tensor) -> Any:
        """Run on tensors of the shapes that were compiled; one call at a time."""
        # Between two runs everything here has left the caches: the less of it, the better. Contexts that would change nothing
        # are not entered.
        if len(inputs) != len(self._expected):
            self._check(inputs)
        for given, (shape, dtype) in zip(inputs, self._expected, strict=True):
            if not isinstance(given, Tensor) or given.shape != shape or given.dtype != dtype:
                self._check(inputs)
        with self._lock:
            if torch.is_grad_enabled() or torch.is_autocast_enabled(self._device_type):
                with torch.no_grad(), torch.autocast(self._device_type, enabled=False):
                    return self._run(inputs)
            return self._run(inputs)

    def _run(self, inputs: Sequence[Tensor]) -> Any:
        plan = self.plan
        for buffer, given in zip(plan.inputs, inputs, strict=True):
            buffer.copy_(given)
        if self._graph is not None:
            graph, leaves = self._graph
            graph.replay()
        else:
            leaves = plan.run()
        if self._static_output:
            return leaves[0] if plan.single else restore(plan.outputs, list(leaves))
        results = [t if keep and t.is_contiguous() else _copied(t) for t, keep in zip(leaves, self._kept, strict=True)]
        return results[0] if plan.single else restore(plan.outputs, results)

    def _check(self, inputs: Sequence[Tensor]) -> None:
        if len(inputs) != len(self._names):
            raise TypeError(f"compiled generator: takes {', '.join(self._names)}, got {len(inputs)} tensors")
        for name, given, example in zip(self._names, inputs, self._examples, strict=True):
            if not isinstance(given, Tensor):
                raise TypeError(f"compiled generator: {name} must be a tensor, got {type(given).__name__}")
            if given.shape != example.shape:
                raise ValueError(
                    f"compiled generator: {name} must be {list(example.shape)}, got {list(given.shape)}: shapes and the batch "
                    "are fixed when compiling; compile another one for another batch"
                )
            if given.is_floating_point() != example.is_floating_point() or (
                not given.is_floating_point() and given.dtype != example.dtype
            ):
                raise TypeError(f"compiled generator: {name} must be {example.dtype}, got {given.dtype}")

    @property
    def output_shapes(self) -> list[torch.Size]:
        """Of the tensors in the output."""
        return list(self.plan.shapes)

    def describe(self) -> str:
        """What runs, in words: steps, folded calls, memory, FLOP of the convolutions."""
        plan = self.plan
        shapes = ", ".join(f"{n} {list(t.shape)}" for n, t in zip(self._names, plan.inputs, strict=True))
        head = [
            f"inputs: {shapes}; {str(self._dtype).removeprefix('torch.')} on {self._device}"
            + (", one CUDA graph" if self._graph is not None else ""),
            f"steps: {plan.steps}; calls made once, when compiling: {plan.folded}",
            f"memory: weights {plan.constant_bytes:,} bytes, static buffers {plan.arena_bytes:,}, "
            f"at most {plan.local_bytes:,} in fresh tensors",
            f"convolutions: {plan.conv_flop / 1e9:.3f} GFLOP",
        ]
        return "\n".join([*head, *(f"{i:4d}  {line}" for i, line in enumerate(plan.notes))])


def _copied(t: Tensor) -> Tensor:
    return t.clone(memory_format=torch.contiguous_format)


def _frozen_copy(module: nn.Module, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """A copy in evaluation mode, of this dtype and device; ``module`` stays as it is."""
    made = copy.deepcopy(module).eval().requires_grad_(False)
    return made.to(device=device, dtype=dtype)
