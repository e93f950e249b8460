"""What only a GPU can show beside the tests: CUDA graphs, torch.compile on the device, more than 2^31 elements, a second GPU.

``python -m benchmarks.gpu_checks [graph compile big device]``, generic over ops ('check' samples) and their GPU
backends. Prints a line per case; exit 1 if one fails, 3 without a GPU. A case that the machine cannot hold or lacks the
second GPU for is skipped.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from gankern._dispatch import OPS, OpSpec, use_backend
from gankern._samples import Sample
from gankern.bench.case import distance
from gankern.bench.common import first_line
from gankern.bench.rows import tensors

# Graph replays and other devices must give the very same numbers; a compiled backward may add gradients in another order.
TOLERANCE = 1e-6


class Skip(Exception):
    """A case that this machine cannot run."""


def cases(dtype: torch.dtype = torch.float32) -> Iterator[tuple[OpSpec, Sample, str]]:
    """(op, sample, backend) for every GPU backend that can run the sample."""
    for spec in OPS.values():
        for sample in spec.samples:
            if "check" in sample.tags and spec.table is not None:
                prepared = spec.prepare(**sample.inputs(dtype, device="cuda"))
                for row in spec.table.rows:
                    if row.name in ("cuda", "triton") and row.can_run(*prepared) is None:
                        yield spec, sample, row.name


def both(function: Callable[..., Any], kwargs: dict[str, Any], names: tuple[str, ...]) -> list[Tensor | None]:
    """Outputs and first gradients."""
    outputs = tensors(function(**kwargs))
    leaves = [kwargs[name] for name in names]
    gradients = torch.autograd.grad(outputs, leaves, [y.detach() for y in outputs], allow_unused=True) if leaves else ()
    return [*(y.detach() for y in outputs), *gradients]


def graph(spec: OpSpec, sample: Sample) -> float:
    """Forward and backward captured once, replayed on other values."""
    kwargs = sample.inputs(device="cuda")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            both(spec.public, kwargs, sample.differentiable)
    torch.cuda.current_stream().wait_stream(stream)
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        result = both(spec.public, kwargs, sample.differentiable)
    fresh = sample.inputs(device="cuda", seed=1)
    with torch.no_grad():
        for name, value in kwargs.items():
            if isinstance(value, Tensor):
                value.copy_(fresh[name])
    captured.replay()
    torch.cuda.synchronize()
    return distance(result, both(spec.public, fresh, sample.differentiable))


def compiled(spec: OpSpec, sample: Sample) -> float:
    """One graph with the operator in it, forward and backward."""
    torch._dynamo.reset()
    kwargs = sample.inputs(device="cuda")
    result = both(torch.compile(spec.public, fullgraph=True), kwargs, sample.differentiable)
    return distance(result, both(spec.public, kwargs, sample.differentiable))


def big(spec: OpSpec, sample: Sample) -> float:
    """More than 2^31 elements: the last images of a huge batch, and the gradients there, against the same images alone."""
    few = sample.inputs(torch.bfloat16, device="cuda")
    x = few.get(spec.image)
    if not isinstance(x, Tensor) or x.dim() != 4 or x.numel() == 0:
        raise Skip("no images")
    own = x.shape[0]
    images = (2**31 // (x.numel() // own) + 1) // own * own + 2 * own
    many = {}
    for name, value in few.items():
        if isinstance(value, Tensor) and value.dim() == 4 and value.shape[0] == own and (own > 1 or name == spec.image):
            value = torch.cat([value.new_zeros(images - own, *value.shape[1:]), value.detach()])
            value.requires_grad_(name in sample.differentiable)
        many[name] = value
    names = tuple(name for name in sample.differentiable if many[name] is not few[name])
    try:
        result = both(spec.public, many, names)
    except torch.cuda.OutOfMemoryError as error:
        raise Skip("not enough memory") from error
    ends = [None if value is None else value[-own:] for value in result]
    return distance(ends, both(spec.public, few, names))


def device(spec: OpSpec, sample: Sample) -> float:
    """Inputs on the second GPU while the first is current."""
    if torch.cuda.device_count() < 2:
        raise Skip("one GPU")
    result = both(spec.public, sample.inputs(device="cuda:1"), sample.differentiable)
    right = both(spec.public, sample.inputs(device="cuda:0"), sample.differentiable)
    return distance([None if value is None else value.to("cuda:0") for value in result], right)


CHECKS: dict[str, Callable[[OpSpec, Sample], float]] = {"graph": graph, "compile": compiled, "big": big, "device": device}


def main(names: list[str]) -> int:
    """Run the named checks (default: all)."""
    unknown = [name for name in names if name not in CHECKS]
    if unknown:
        print(f"gpu_checks: unknown check {unknown[0]!r}; known: {', '.join(CHECKS)}", file=sys.stderr)
        return 2
    if not torch.cuda.is_available():
        print("gpu_checks: no GPU", file=sys.stderr)
        return 3
    failed = 0
    for name in names or CHECKS:
        for spec, sample, backend in cases():
            try:
                with use_backend(backend):
                    error = CHECKS[name](spec, sample)
                state = "ok" if error <= TOLERANCE else "FAILED"
                note = f"distance {error:.2g}"
            except Skip as reason:
                state, note = "skipped", str(reason)
            except Exception as error:  # one failing case must not hide the others
                state, note = "FAILED", first_line(error)
            failed += state == "FAILED"
            print(f"{name:8s} {spec.name} {sample.name} {backend}: {state} ({note})", flush=True)
            torch.cuda.empty_cache()
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
