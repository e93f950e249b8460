from __future__ import annotations

import copy
import gc
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from patch_models import CASES, assert_same, made, results
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.utils import parametrizations, remove_spectral_norm

import gankern
from gankern import _usage, losses
from gankern.compat import _patch_layers as layers


# ---- life of a patched model -------------------------------------------------------------------------------------------
def test_an_optimizer_made_before_trains_and_checkpoints_are_exchangeable() -> None:
    model, (x,), _ = made("instance-norm-tracked")
    twin = copy.deepcopy(model)
    optimizers = [torch.optim.SGD(m.parameters(), 0.01) for m in (model, twin)]
    gankern.patch(model)
    for m, optimizer in zip((model, twin), optimizers, strict=True):
        for _ in range(3):
            optimizer.zero_grad()
            losses.r1_penalty(m(x.requires_grad_()).mean((1, 2, 3)), x).backward()
            optimizer.step()
    assert_same([*model.state_dict().values()], [*twin.state_dict().values()], 1e-4)
    fresh = made("instance-norm-tracked")[0]
    assert str(fresh.load_state_dict(model.state_dict())) == "<All keys matched successfully>"
    assert str(model.load_state_dict(twin.state_dict())) == "<All keys matched successfully>"
    torch.testing.assert_close(model(x), twin(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [n for n in CASES if n != "spectral-parametrization"])
def test_pickle_and_deepcopy(name: str) -> None:
    model, inputs, _ = made(name)
    model.eval()
    gankern.patch(model)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(file, weights_only=False)):
        assert [type(m) for m in other.modules()] == [type(m) for m in model.modules()]
        assert_same(results(other, inputs), results(model, inputs), 0.0)
        before = list(map(type, other.modules()))
        assert gankern.unpatch(other) and list(map(type, other.modules())) != before
        other(*inputs)
        assert list(map(type, model.modules())) == before  # a copy's classes are its own to change


def test_deepcopy_and_removal_with_parametrizations() -> None:
    model, (x,), _ = made("spectral-parametrization")
    model.eval()
    want = model(x)
    gankern.patch(model)
    other = copy.deepcopy(model)
    torch.testing.assert_close(other(x), want)
    with pytest.raises(RuntimeError, match="state_dict"):  # as without gankern
        pickle.dumps(model)
    torch.nn.utils.parametrize.remove_parametrizations(other[0], "weight")
    assert layers.patch_of(type(other[0])) is not None and "weight" in other[0]._parameters
    torch.testing.assert_close(other(x), want)
    gankern.unpatch(other)
    assert type(other[0]) is nn.Conv2d
    torch.testing.assert_close(other(x), want)


def test_parametrized_after_it_was_patched() -> None:
    model, (x,), _ = made("conv")
    gankern.patch(model)
    parametrizations.weight_norm(model[0])
    want = model(x)
    parametrizations.weight_norm(model[0], "bias", dim=None)
    gankern.patch(model)
    torch.testing.assert_close(model(x), want)
    gankern.unpatch(model)
    assert all(layers.patch_of(type(m)) is None for m in model.modules())
    torch.testing.assert_close(model(x), want)
    torch.nn.utils.parametrize.remove_parametrizations(model[0], "weight")
    torch.nn.utils.parametrize.remove_parametrizations(model[0], "bias")
    assert type(model[0]) is nn.Conv2d
    torch.testing.assert_close(model(x), want)


def test_a_class_that_was_derived_after() -> None:
    """As fully_shard does, which puts a class of its own in front of the module's."""

    class Sharded:
        extra = 3

    model, (x,), _ = made("conv")
    want = model(x)
    gankern.patch(model)
    model[0].__class__ = type("Sharded" + type(model[0]).__name__, (Sharded, type(model[0])), {"more": 4})
    torch.testing.assert_close(model(x), want)
    gankern.unpatch(model)
    assert layers.patch_of(type(model[0])) is None and isinstance(model[0], nn.Conv2d)
    assert (model[0].extra, model[0].more, type(model[0]).__name__) == (3, 4, "ShardedConv2d")
    torch.testing.assert_close(model(x), want)


def test_removing_a_spectral_norm_hook() -> None:
    model, (x,), _ = made("spectral-hook")
    model.eval()
    want = model(x)
    gankern.patch(model)
    remove_spectral_norm(model[0])
    torch.testing.assert_close(model(x), want)


def test_sequentials_may_be_changed_after() -> None:
    model, (x,), _ = made("conv")
    want = [model[:k](x) for k in range(1, 5)]
    gankern.patch(model)
    for k in range(1, 5):
        torch.testing.assert_close(model[:k](x), want[k - 1])  # the first alone must not be activated
    first, act = model[0], model[1]
    torch.testing.assert_close(act(first(x)), want[1])
    model[1] = nn.Identity()
    torch.testing.assert_close(model[:2](x), want[0])
    model.append(nn.Conv2d(4, 4, 1)).append(nn.ReLU())
    assert len(gankern.patch(model).swapped) == 2


def test_hooks_see_what_they_saw() -> None:
    def watched(place: int, patch: bool) -> tuple[nn.Module, list[Tensor]]:
        model, (x,), _ = made("conv")
        if patch:
            gankern.patch(model)
        seen: list[Tensor] = []
        model[place].register_forward_hook(lambda m, a, y: seen.append(y.clone()))
        model[1].register_forward_pre_hook(lambda m, a: seen.append(a[0].clone()))
        return model, [*seen, model(x), *seen]

    for place in (0, 1):
        model, seen = watched(place, True)
        assert len(seen) == 3
        torch.testing.assert_close(seen, watched(place, False)[1])
        gankern.unpatch(model)
        assert any("hook" in row.detail for row in gankern.patch(model).left)


def test_global_hooks_see_every_layer() -> None:
    model, (x,), _ = made("conv")
    gankern.patch(model)
    seen: list[str] = []
    handle = nn.modules.module.register_module_forward_hook(lambda m, a, y: seen.append(type(m).__name__))
    try:
        model(x)
    finally:
        handle.remove()
    assert seen == ["Conv2d", "LeakyReLU", "Conv2d", "ReLU", "Sequential"]


def test_train_and_eval_of_tracked_statistics() -> None:
    model, (x,), _ = made("instance-norm-tracked")
    ours = copy.deepcopy(model)
    gankern.patch(ours)
    for training in (True, False, True, False):
        torch.testing.assert_close(ours.train(training)(x), model.train(training)(x), rtol=1e-4, atol=1e-5)
    assert_same([*ours.state_dict().values()], [*model.state_dict().values()], 1e-5)


@pytest.mark.parametrize("patch_first", [True, False])
def test_distributed_data_parallel(patch_first: bool, tmp_path: Any) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        check_data_parallel(patch_first)
    finally:
        # What is parallel must be gone by now: it would end the group with Python's lock held, and wait for its threads.
        gc.collect()
        torch.distributed.destroy_process_group()


def check_data_parallel(patch_first: bool) -> None:
    model, (x,), _ = made("instance-norm")
    want = results(model, (x,))
    if patch_first:
        gankern.patch(model)
    parallel = nn.parallel.DistributedDataParallel(model)
    if not patch_first:
        assert len(gankern.patch(parallel).swapped) == 5
    y = parallel(x)
    torch.testing.assert_close(y, want[0], rtol=1e-4, atol=1e-5)
    (y.pow(2).sum() + y.sum()).backward()
    for p, g in zip(model.parameters(), want[2:], strict=False):
        assert p.grad is not None
        torch.testing.assert_close(p.grad, g, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["conv", "instance-norm-affine", "spectral-parametrization"])
def test_compile_in_one_graph(name: str) -> None:
    model, (x,), _ = made(name)
    model.eval()
    want = results(model, (x,))[:2]
    gankern.patch(model)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    leaf = x.clone().requires_grad_()
    y = compiled(leaf)
    (g,) = torch.autograd.grad(y.pow(2).sum() + y.sum(), leaf)
    assert_same([y, g], want, 2e-5)


def test_a_model_that_was_compiled_before() -> None:
    model, (x,), _ = made("conv")
    compiled = torch.compile(model, backend="eager")
    want = compiled(x)
    assert len(gankern.patch(compiled).swapped) == 3
    with _usage.recording() as ran:
        torch.testing.assert_close(compiled(x), want)
    assert {entry.op for entry in ran.entries()} >= {"conv2d", "bias_act"}
    gankern.unpatch(compiled)
    torch.testing.assert_close(compiled(x), want)


@pytest.mark.filterwarnings(
    "ignore::torch.jit.TracerWarning", "ignore:.*jit.*:DeprecationWarning", "ignore:.*export:UserWarning"
)
@pytest.mark.parametrize("name", ["conv", "instance-norm", "spectral-hook"])
def test_what_is_traced_or_exported_has_no_operator_of_gankern(name: str) -> None:
    model, inputs, _ = made(name)
    model.eval()
    want = model(*inputs)
    gankern.patch(model)
    traced = torch.jit.trace(model, inputs)
    assert "gankern::" not in str(traced.inlined_graph)
    torch.testing.assert_close(traced(*inputs), want)
    exported = torch.export.export(model, inputs, strict=False)
    assert "gankern" not in str(exported.graph)
    torch.testing.assert_close(exported.module()(*inputs), want)


def test_functional_transforms_and_symbolic_tracing() -> None:
    model, (x,), _ = made("conv")
    gankern.patch(model)
    traced = torch.fx.symbolic_trace(model)
    torch.testing.assert_close(traced(x), model(x))
    parameters = dict(model.named_parameters())
    want = torch.autograd.grad(model(x).sum(), list(parameters.values()))
    found = torch.func.grad(lambda p: torch.func.functional_call(model, p, (x,)).sum())(parameters)
    assert_same(list(found.values()), list(want), 1e-5)


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad])
@pytest.mark.parametrize("name", ["conv", "linear", "instance-norm", "spectral-hook"])
def test_vmap_and_forward_mode(name: str, mode: Any) -> None:
    model, (x,), _ = made(name)
    model.eval()
    slope = torch.randn(x.shape)
    want, tangent = torch.func.jvp(model, (x,), (slope,))
    gankern.patch(model)
    with mode():
        torch.testing.assert_close(torch.func.vmap(model)(torch.stack([x - 1, x]))[1], want, rtol=1e-4, atol=1e-5)
        assert_same(list(torch.func.jvp(model, (x,), (slope,))), [want, tangent], 1e-5)
        with forward_ad.dual_level():
            found = forward_ad.unpack_dual(model(forward_ad.make_dual(x, slope)))
            assert_same([found.primal, found.tangent], [want, tangent], 1e-5)


@pytest.mark.parametrize(
    "build", [lambda: nn.Conv2d(4, 8, 3), lambda: nn.ConvTranspose2d(4, 8, 3), lambda: nn.InstanceNorm2d(4)]
)
def test_images_without_a_batch(build: Callable[[], nn.Module]) -> None:
    model = nn.Sequential(build(), nn.LeakyReLU())
    x = torch.randn(4, 8, 8)
    want = model(x)
    gankern.patch(model)
    torch.testing.assert_close(model(x), want)


def test_output_size_of_a_transposed_convolution() -> None:
    model = nn.ConvTranspose2d(4, 3, 3, 2)
    x = torch.randn(1, 4, 5, 5)
    want = model(x, output_size=[12, 12])
    gankern.patch(model)
    torch.testing.assert_close(model(x, output_size=[12, 12]), want)
