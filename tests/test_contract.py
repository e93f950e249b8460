"""What every op must do on every backend: generic over ops, backends and samples. A new op is picked up by itself.

The backends of a process: reference and cpu always; cuda and triton on a GPU; without one, cuda through the emulation in
tests/cuda_emulation, and triton in a process of its own with TRITON_INTERPRET=1 (``test_triton_interpreter.py`` starts it).
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from machine import HAS_GPU, INTERPRETED

import gankern
from gankern._dispatch import OPS, OpSpec, runs_on
from gankern._samples import DTYPES, LAYOUTS, Sample
from gankern.testing import check_sample, derivatives

DTYPE_IDS = {dtype: str(dtype).removeprefix("torch.") for dtype in DTYPES}


@dataclass(frozen=True)
class Backend:
    """A backend as this process runs it."""

    name: str
    device: str = "cpu"
    emulated: bool = False

    def __str__(self) -> str:
        return self.name + ("-emulated" if self.emulated else "")


def backends() -> list[Backend]:
    if INTERPRETED:
        return [Backend("triton")]
    found = [Backend("reference"), Backend("cpu"), Backend("aten")]
    if HAS_GPU:
        found += [Backend(name, "cuda") for name in ("reference", "cuda", "triton", "aten")]
    else:
        found.append(Backend("cuda", "cpu", emulated=True))
    return found


def ids(value: Any) -> str | None:
    if isinstance(value, Backend):
        return str(value) + ("-gpu" if value.device == "cuda" else "")
    return DTYPE_IDS.get(value) if isinstance(value, torch.dtype) else None


# 'check' leaves the few samples of that tag, for a quick look.
WANTED = os.environ.get("GANKERN_CONTRACT", "contract")
CASES = [
    pytest.param(spec, sample, layout, id=f"{spec.name}-{sample.name}-{layout}")
    for spec in OPS.values()
    for sample in spec.samples
    if WANTED in sample.tags
    for layout in sample.layouts
]
CHECKS = [
    pytest.param(spec, sample, id=f"{spec.name}-{sample.name}")
    for spec in OPS.values()
    for sample in spec.samples
    if "check" in sample.tags
]
SPECS = [pytest.param(spec, id=spec.name) for spec in OPS.values()]


@pytest.fixture
def backend(spec: OpSpec, backend_case: Backend) -> Iterator[Backend]:
    case = backend_case
    with ExitStack() as stack:
        if case.emulated:
            stack.enter_context(emulated_cuda())
        elif case.name == "cpu" and not gankern.NATIVE.cpu:
            pytest.skip(f"no native CPU kernels: {gankern.NATIVE.reason('cpu')}")
        elif case.name == "cuda" and not gankern.NATIVE.cuda:
            pytest.skip(f"no native CUDA kernels: {gankern.NATIVE.reason('cuda')}")
        yield case


def rare(case: Any, dtype: torch.dtype | None) -> bool:
    """What the slow interpreter leaves out: samples tagged 'check' run in all dtypes and layouts, the others in float32, and in
    bfloat16 in NCHW. (Addresses depend on the layout, rounding on the dtype, and neither on the other.)
    """
    if not any(isinstance(value, Sample) and "check" not in value.tags for value in case.values):
        return False
    return dtype in (torch.float16, torch.float64) or (dtype == torch.bfloat16 and "channels_last" in case.values)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every case on every backend that is of use to its op."""
    if "backend" not in metafunc.fixturenames:
        return
    mark = next(m for m in metafunc.definition.iter_markers("cases"))
    names, cases = mark.args
    dtypes = mark.kwargs.get("dtypes")
    params = []
    for case in cases:
        for b in backends():
            for dtype in dtypes or [None]:
                if runs_on(case.values[0], b.name, dtype) and not (INTERPRETED and rare(case, dtype)):
                    name, own = f"{case.id}-{ids(b)}", (dtype,) if dtypes else ()
                    params.append(pytest.param(*case.values, b, *own, id=f"{name}-{ids(dtype)}" if dtypes else name))
    metafunc.parametrize(f"{names}, backend_case, dtype" if dtypes else f"{names}, backend_case", params)


def emulated_cuda() -> Any:
    from cuda_emulation import harness

    if (missing := harness.missing()) and not os.environ.get("GANKERN_REQUIRE_EMULATION"):
        pytest.skip(f"CUDA emulation: {missing}")
    harness.load()
    return harness.install_rows()


@pytest.mark.cases("spec, sample, layout", CASES, dtypes=DTYPES)
def test_forward_and_derivatives(spec: OpSpec, sample: Sample, dtype: torch.dtype, layout: str, backend: Backend) -> None:
    outcomes = check_sample(spec, sample, backend.name, dtype, layout, backend.device)
    failed = [f"{o.what}: {o.comparison}" for o in outcomes if not o.comparison.ok]
    assert not failed, "\n".join(failed)


@pytest.mark.cases("spec, sample", CHECKS, dtypes=(torch.float64,))
def test_gradcheck(spec: OpSpec, sample: Sample, dtype: torch.dtype, backend: Backend) -> None:
    """Against finite differences, first and second order."""
    kwargs = sample.inputs(dtype, device=backend.device)

    def function(*leaves: torch.Tensor) -> torch.Tensor:
        return spec.public(**{**kwargs, **dict(zip(sample.differentiable, leaves, strict=True))})

    leaves = [kwargs[name] for name in sample.differentiable]
    with gankern.use_backend(backend.name):
        assert torch.autograd.gradcheck(function, leaves, fast_mode=True)
        assert torch.autograd.gradgradcheck(function, leaves, fast_mode=True)


@pytest.mark.skipif(INTERPRETED, reason="which derivatives are formed does not depend on the backend")
@pytest.mark.parametrize("spec, sample", CHECKS)
def test_one_gradient_alone_and_its_derivatives(spec: OpSpec, sample: Sample) -> None:
    """A backward pass that asks for one argument only, of inputs that are results themselves; then all second derivatives."""

    def second(function: Any, name: str) -> list[torch.Tensor]:
        kwargs = sample.inputs(torch.float64)
        leaves = {n: kwargs[n] for n in sample.differentiable}
        y = function(**{**kwargs, **{n: leaf * 1.5 for n, leaf in leaves.items()}})
        (g,) = torch.autograd.grad(y.sin().sum(), leaves[name], create_graph=True)
        found = torch.autograd.grad(g.square().sum(), list(leaves.values()), allow_unused=True)
        return [g, *(torch.zeros_like(x) if d is None else d for x, d in zip(leaves.values(), found, strict=True))]

    for name in sample.differentiable:
        for mine, right in zip(second(spec.public, name), second(spec.reference, name), strict=True):
            torch.testing.assert_close(mine, right)


@pytest.mark.skipif(INTERPRETED, reason="opcheck is about registration, not about kernels")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("spec, sample", CHECKS)
def test_opcheck(spec: OpSpec, sample: Sample, layout: str) -> None:
    if spec.table is None:
        pytest.skip(f"{spec.name} is a composition, not an operator: its parts are checked")
    operator = getattr(torch.ops.gankern, spec.name).default
    torch.library.opcheck(operator, spec.prepare(**sample.inputs(torch.float32, layout)))


@pytest.mark.skipif(INTERPRETED, reason="torch.compile is tested in the main process")
@pytest.mark.parametrize("spec, sample", CHECKS)
def test_compile_fullgraph(spec: OpSpec, sample: Sample) -> None:
    """One graph, forward and backward, with static and with dynamic shapes."""
    kwargs = sample.inputs(torch.float64)
    plain = derivatives(spec.public, kwargs, sample.differentiable, order=1)
    for dynamic in (False, True):
        torch._dynamo.reset()
        compiled = torch.compile(spec.public, fullgraph=True, backend="aot_eager", dynamic=dynamic)
        result = derivatives(compiled, kwargs, sample.differentiable, order=1)
        torch.testing.assert_close(result.output, plain.output)
        for name in sample.differentiable:
            torch.testing.assert_close(result.first[name], plain.first[name])


@pytest.mark.skipif(INTERPRETED, reason="torch.compile is tested in the main process")
@pytest.mark.slow
@pytest.mark.parametrize("spec, sample", CHECKS)
def test_compile_inductor(spec: OpSpec, sample: Sample) -> None:
    kwargs = sample.inputs(torch.float32)
    plain = derivatives(spec.public, kwargs, sample.differentiable, order=1)
    torch._dynamo.reset()
    result = derivatives(torch.compile(spec.public, fullgraph=True), kwargs, sample.differentiable, order=1)
    torch.testing.assert_close(result.output, plain.output)


@pytest.mark.parametrize("spec", SPECS)
def test_second_derivative_inside_one_graph(spec: OpSpec) -> None:
    """A gradient penalty wholly inside one compiled graph, where this torch can trace autograd.grad."""
    if INTERPRETED or not hasattr(torch._dynamo.config, "trace_autograd_ops"):
        pytest.skip("this torch cannot trace autograd.grad inside a graph")
    sample = next(s for s in spec.samples if "check" in s.tags)
    kwargs = sample.inputs(torch.float64)

    def penalty(x: torch.Tensor) -> torch.Tensor:
        y = spec.public(**{**kwargs, spec.image: x})
        (g,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        return g.square().sum()

    x = kwargs[spec.image]
    (plain,) = torch.autograd.grad(penalty(x), x)
    torch._dynamo.reset()
    with torch._dynamo.config.patch(trace_autograd_ops=True):
        (result,) = torch.autograd.grad(torch.compile(penalty, fullgraph=True, backend="aot_eager")(x), x)
    torch.testing.assert_close(result, plain)


@pytest.mark.parametrize("spec", SPECS)
def test_reference_has_the_public_signature(spec: OpSpec) -> None:
    assert inspect.signature(spec.public) == inspect.signature(spec.reference)


@pytest.mark.cases("spec, sample", CHECKS)
def test_awkward_strides(spec: OpSpec, sample: Sample, backend: Backend) -> None:
    """Views that are shifted by one element, sliced, transposed or expanded give what their copies give."""
    kwargs = sample.inputs(torch.float32, device=backend.device)
    x = kwargs[spec.image].detach()
    n, c, h, w = x.shape
    wide = torch.randn(n, c + 1, h + 2, w + 3, device=x.device)
    views = {
        "shifted": wide[:, 1:, 1 : h + 1, 1 : w + 1],
        "every second": torch.randn(n, c, h, 2 * w, device=x.device)[..., ::2],
        "transposed": torch.randn(n, c, w, h, device=x.device).transpose(2, 3),
        "expanded": torch.randn(n, 1, h, w, device=x.device).expand(n, c, h, w),
        "channels_last slice": wide.contiguous(memory_format=torch.channels_last)[:, 1:, 1 : h + 1, 1 : w + 1],
        "batch first last": torch.randn(c, h, w, n, device=x.device).permute(3, 0, 1, 2),
    }
    for name, view in views.items():
        with gankern.use_backend(backend.name):
            result = spec.public(**{**kwargs, spec.image: view})
            expected = spec.public(**{**kwargs, spec.image: view.clone(memory_format=torch.contiguous_format)})
        torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.cases("spec, sample", CHECKS)
def test_deterministic(spec: OpSpec, sample: Sample, backend: Backend) -> None:
    """The same bits from run to run and for any number of threads (PyTorch's own arithmetic: for the same number)."""
    threads = torch.get_num_threads()
    vendor = spec.table is None or spec.table.row("aten") is not None
    runs = []
    try:
        for count in (threads, threads, threads if vendor else 1):
            torch.set_num_threads(count)
            with gankern.use_backend(backend.name):
                kwargs = sample.inputs(torch.float32, device=backend.device)
                runs.append(derivatives(spec.public, kwargs, sample.differentiable, order=1))
    finally:
        torch.set_num_threads(threads)
    for run in runs[1:]:
        assert torch.equal(run.output, runs[0].output)
        for name, value in run.first.items():
            assert torch.equal(value, runs[0].first[name])


@pytest.mark.skipif(INTERPRETED, reason="no kernel runs under a transform")
@pytest.mark.parametrize("spec", SPECS)
def test_functorch(spec: OpSpec) -> None:
    sample = next(s for s in spec.samples if "check" in s.tags)
    kwargs = sample.inputs(torch.float64)
    x = kwargs.pop(spec.image).detach()
    stack = torch.stack([x, 2 * x, x.flip(0)])
    mapped = torch.vmap(lambda z: spec.public(**{spec.image: z}, **kwargs))(stack)
    torch.testing.assert_close(mapped, torch.stack([spec.public(**{spec.image: z}, **kwargs) for z in stack]))
    functional = torch.func.grad(lambda z: spec.public(**{spec.image: z}, **kwargs).square().sum())(x)
    leaf = x.clone().requires_grad_()
    (ordinary,) = torch.autograd.grad(spec.public(**{spec.image: leaf}, **kwargs).square().sum(), leaf)
    torch.testing.assert_close(functional, ordinary)


@pytest.mark.cases("spec", SPECS, dtypes=(torch.float32, torch.bfloat16, torch.float64))
def test_autocast(spec: OpSpec, dtype: torch.dtype, backend: Backend) -> None:
    """Under autocast an op computes in the dtype of its input, but for convolutions, which take autocast's as PyTorch's do."""
    sample = next(s for s in spec.samples if "check" in s.tags)
    kwargs = sample.inputs(dtype, device=backend.device)
    lower = spec.autocast != "keep" and dtype != torch.float64
    expected = sample.inputs(torch.bfloat16, device=backend.device) if lower and spec.autocast == "lower" else kwargs
    if lower and spec.autocast == "image":
        low = kwargs[spec.image].detach().to(torch.bfloat16).requires_grad_()
        expected = {**kwargs, spec.image: low}
    with gankern.use_backend(backend.name):
        plain = derivatives(spec.public, expected, sample.differentiable)
        with torch.autocast(backend.device, dtype=torch.bfloat16):
            result = derivatives(spec.public, kwargs, sample.differentiable)
    assert result.output.dtype == plain.output.dtype
    assert torch.equal(result.output, plain.output)
    for name, gradient in result.first.items():
        assert gradient.dtype == dtype
        torch.testing.assert_close(gradient, plain.first[name].to(dtype), rtol=2e-2, atol=2e-2)


@pytest.mark.skipif(not INTERPRETED and not HAS_GPU, reason="what cannot run here says so before it looks at the dtype")
@pytest.mark.parametrize("spec", [s for s in SPECS if s.values[0].no_float64])
def test_a_refusal_of_float64_is_named(spec: OpSpec) -> None:
    sample = next(s for s in spec.samples if "check" in s.tags)
    kwargs = sample.inputs(torch.float64, device="cpu" if INTERPRETED else "cuda")
    for name in spec.no_float64:
        assert name not in ("reference", "cpu"), "these take everything"
        with gankern.use_backend(name), pytest.raises(RuntimeError, match="float64"):
            spec.public(**kwargs)


def test_every_contract_has_a_sample() -> None:
    for spec in OPS.values():
        tags = set().union(*(s.tags for s in spec.samples))
        assert {"contract", "check", "quick"} <= tags, f"{spec.name} needs samples tagged contract, check and quick"
        names = [s.name for s in spec.samples]
        assert len(names) == len(set(names))
