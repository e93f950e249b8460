"""Installing and taking back: before and after imports, nested, in threads; other checkouts; what old code imports."""

from __future__ import annotations

import importlib
import importlib.machinery
import shutil
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from nvlabs_names import NVLABS_NAMES
from torch import Tensor

from gankern import ops
from gankern.compat import nvlabs
from gankern.compat._shims import Changes, CompatWarning

OPERATORS = ("bias_act", "conv2d_gradfix", "conv2d_resample", "filtered_lrelu", "fma", "grid_sample_gradfix", "upfirdn2d")
NETWORKS = ("training.networks_stylegan2", "training.networks_stylegan3", "training.augment", "residual.networks")
TREE_MODULES = [*(f"torch_utils.ops.{name}" for name in OPERATORS), "torch_utils.custom_ops", "torch_utils.persistence"]
TREE_MODULES += [*NETWORKS, "residual.plain"]


def import_tree() -> dict[str, Any]:
    return {name: importlib.import_module(name) for name in TREE_MODULES}


def state() -> tuple[Any, ...]:
    """Every global of the codebase's modules, their classes, the import hooks and torch's functions, by identity."""
    modules = {name: m for name, m in sys.modules.items() if name.partition(".")[0] in NVLABS_NAMES}
    return (
        {name: (id(m), type(m), {key: id(value) for key, value in vars(m).items()}) for name, m in modules.items()},
        [id(finder) for finder in sys.meta_path],
        [id(f) for f in (torch.nn, torch.nn.functional, torch.nn.functional.conv2d, torch.nn.functional.conv_transpose2d)],
        {name for name in sys.modules if name.startswith(("pkg_resources", "distutils", "torch._six"))},
    )


def is_ours(function: Any) -> bool:
    return "gankern" in function.__code__.co_filename


def check_all_ours(modules: dict[str, Any]) -> None:
    for name in TREE_MODULES[:7]:
        function = name.rpartition(".")[2].removesuffix("_gradfix")
        assert is_ours(getattr(modules[name], function)), name
    for name in ("training.networks_stylegan2", "training.networks_stylegan3"):
        assert is_ours(modules[name].modulated_conv2d)
    assert is_ours(modules["residual.networks"].bias_act), "bound by from ... import"
    assert is_ours(modules["torch_utils.ops.conv2d_resample"].upfirdn2d)
    assert modules["residual.networks"].nn.functional.conv2d is not torch.nn.functional.conv2d


def test_after_import_and_back(nvlabs_tree: Path) -> None:
    modules = import_tree()
    before = state()
    nvlabs.install()
    check_all_ours(modules)
    modules["torch_utils.ops.conv2d_gradfix"].enabled = False
    nvlabs.uninstall()
    assert state() == before


def test_before_import_and_back(nvlabs_tree: Path) -> None:
    """What was imported under the shim is, after it, what it would be if it had been imported without."""
    hooks = list(sys.meta_path)
    with nvlabs.installed():
        modules = import_tree()
        check_all_ours(modules)
        spec = modules["torch_utils.ops.upfirdn2d"].__spec__
        assert isinstance(spec.loader, importlib.machinery.SourceFileLoader), "a module keeps its own loader"
        assert str(nvlabs_tree) in modules["torch_utils.ops.upfirdn2d"].__file__
    assert sys.meta_path == hooks
    resample, up = modules["torch_utils.ops.conv2d_resample"], modules["torch_utils.ops.upfirdn2d"]
    assert resample.upfirdn2d is up.upfirdn2d and not is_ours(up.upfirdn2d)
    assert modules["residual.networks"].bias_act is modules["torch_utils.ops.bias_act"].bias_act
    assert modules["residual.networks"].nn is torch.nn
    for module in modules.values():
        assert not any(is_ours(v) for v in vars(module).values() if hasattr(v, "__code__")), module.__name__
    before = state()
    with nvlabs.installed():
        check_all_ours(modules)
    assert state() == before


def test_without_a_checkout_nothing_is_left(no_nvlabs: None) -> None:
    before = state()
    with nvlabs.installed():
        import dnnlib
        from torch_utils import misc, persistence
        from torch_utils.ops import upfirdn2d

        assert dnnlib.EasyDict(a=1).a == 1 and dnnlib.util.EasyDict is dnnlib.EasyDict
        misc.assert_shape(torch.zeros(2, 3), [None, 3])
        with pytest.raises(AssertionError, match=r"\[2, 4\]"):
            misc.assert_shape(torch.zeros(2, 3), [2, 4])
        with pytest.raises(AttributeError, match="checkout"):
            _ = misc.print_module_summary
        assert persistence.is_persistent(1) is False
    assert state() == before
    with pytest.raises(ImportError):
        importlib.import_module("torch_utils.ops.upfirdn2d")
    y = upfirdn2d.upsample2d(torch.ones(1, 1, 2, 2), torch.ones(2) / 2)
    assert y.shape == (1, 1, 4, 4), "who has the module can use it on"


def test_a_checkout_may_come_after_supplied_modules(nvlabs_tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (nvlabs_tree / "torch_utils" / "extra.py").write_text("from torch_utils.ops import fma\nVALUE = 3\n")
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != str(nvlabs_tree)])
    with nvlabs.installed():
        import torch_utils.ops.bias_act

        sys.path.insert(0, str(nvlabs_tree))
        assert importlib.import_module("torch_utils.extra").VALUE == 3
        assert not hasattr(torch_utils, "__file__")


def test_a_function_that_was_bound_anywhere_is_replaced(nvlabs_tree: Path) -> None:
    from torch_utils.ops.conv2d_resample import conv2d_resample

    user = ModuleType("user_script")
    user.renamed = conv2d_resample  # type: ignore[attr-defined]
    sys.modules["user_script"] = user
    try:
        with nvlabs.installed():
            assert is_ours(user.renamed)
            late = ModuleType("late_script")
            exec("from torch_utils.ops.fma import fma", vars(late))
            sys.modules["late_script"] = late
        assert user.renamed is conv2d_resample and late.fma is sys.modules["torch_utils.ops.fma"].fma
        assert not is_ours(late.fma)
    finally:
        sys.modules.pop("user_script")
        sys.modules.pop("late_script", None)


def test_installations_are_counted(nvlabs_tree: Path) -> None:
    from torch_utils.ops import fma

    own = fma.fma
    nvlabs.install()
    ours = fma.fma
    with nvlabs.installed():
        nvlabs.install()
        assert fma.fma is ours, "installed once"
        nvlabs.uninstall()
    assert fma.fma is ours and nvlabs.is_installed()
    with pytest.raises(ValueError, match=r"modulated_conv=True.*modulated_conv=False.*uninstall"):
        nvlabs.install(modulated_conv=False)
    nvlabs.uninstall()
    assert fma.fma is own and not nvlabs.is_installed()
    with pytest.raises(RuntimeError, match="not installed"):
        nvlabs.uninstall()


def test_an_error_in_the_scope_takes_it_back(nvlabs_tree: Path) -> None:
    with pytest.raises(ZeroDivisionError), nvlabs.installed():
        raise ZeroDivisionError
    assert not nvlabs.is_installed()


def test_threads(nvlabs_tree: Path) -> None:
    import_tree()
    before, failures = state(), []

    def work(index: int) -> None:
        try:
            for _ in range(4):
                with nvlabs.installed():
                    from torch_utils.ops import bias_act

                    assert is_ours(bias_act.bias_act)
                    importlib.import_module(f"training.part{index}")
        except BaseException as error:
            failures.append(error)

    for index in range(6):
        (nvlabs_tree / "training" / f"part{index}.py").write_text("from torch_utils.ops.bias_act import bias_act\n")
    importlib.invalidate_caches()
    threads = [threading.Thread(target=work, args=(index,)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures and not any(thread.is_alive() for thread in threads)
    for index in range(6):
        part = sys.modules.pop(f"training.part{index}")
        assert part.bias_act is sys.modules["torch_utils.ops.bias_act"].bias_act and not is_ours(part.bias_act)
        delattr(sys.modules["training"], f"part{index}")
    assert state() == before


@pytest.mark.parametrize("name", ["modulated_conv", "functional_conv"])
def test_options_must_be_bools(no_nvlabs: None, name: str) -> None:
    with pytest.raises(TypeError, match=f"{name} must be a bool, got 1"):
        nvlabs.install(**{name: 1})  # type: ignore[arg-type]
    assert not nvlabs.is_installed()


# ---- whole networks ------------------------------------------------------------------------------------------------------
def penalised(critic: Callable[[Tensor], Tensor], parameters: list[Tensor], images: Tensor) -> list[Tensor]:
    """R1 and its gradients."""
    images = images.clone().requires_grad_()
    (g,) = torch.autograd.grad(critic(images).sum(), images, create_graph=True)
    penalty = g.square().sum((1, 2, 3)).mean()
    return [penalty.detach(), *torch.autograd.grad(penalty, parameters, allow_unused=True, materialize_grads=True)]


def path_length(generator: torch.nn.Module, z: Tensor) -> list[Tensor]:
    """Images, path length and its gradients."""
    z = z.clone().requires_grad_()
    y = generator(z)
    (g,) = torch.autograd.grad((y * torch.cos(torch.arange(y.numel()).reshape(y.shape))).sum(), z, create_graph=True)
    length = g.square().sum(1).sqrt().mean()
    return [y, length, *torch.autograd.grad(length, list(generator.parameters()), allow_unused=True, materialize_grads=True)]


def close(got: list[Tensor], want: list[Tensor]) -> None:
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("name", ["training.networks_stylegan2", "training.networks_stylegan3"])
@pytest.mark.parametrize("modulated_conv", [True, False])
def test_generators(nvlabs_tree: Path, monkeypatch: pytest.MonkeyPatch, name: str, modulated_conv: bool) -> None:
    networks = importlib.import_module(name)
    torch.manual_seed(0)
    generator, z = networks.Generator().double(), torch.randn(2, 8, dtype=torch.float64)
    want = path_length(generator, z)
    calls = []
    real = ops.modulated_conv2d
    monkeypatch.setattr(ops, "modulated_conv2d", lambda *a, **k: (calls.append(1), real(*a, **k))[1])
    with nvlabs.installed(modulated_conv=modulated_conv):
        for training in (True, False):
            close(path_length(generator.train(training), z), want)
        assert bool(calls) == modulated_conv
    close(path_length(generator, z), want)


def test_r1_with_augmentation(nvlabs_tree: Path) -> None:
    from training.augment import AugmentPipe
    from training.networks_stylegan2 import Discriminator

    torch.manual_seed(0)
    critic, images = Discriminator().double(), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    pipe, parameters = AugmentPipe().double(), list(critic.parameters())
    want = penalised(lambda x: critic(pipe(x)), parameters, images)
    assert all(float(t.abs().sum()) for t in want)
    with nvlabs.installed():
        from torch_utils.ops import conv2d_gradfix

        with conv2d_gradfix.no_weight_gradients():
            images = images.clone().requires_grad_()
            (g,) = torch.autograd.grad(critic(pipe(images)).sum(), images, create_graph=True)
        penalty = g.square().sum((1, 2, 3)).mean()
        close([penalty.detach(), *torch.autograd.grad(penalty, parameters)], want)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_codebase_in_a_package(nvlabs_tree: Path, when: str) -> None:
    package = nvlabs_tree / "vendored" / "stylegan"
    for folder in ("torch_utils", "training", "residual"):
        shutil.copytree(nvlabs_tree / folder, package / folder)
    for file in package.rglob("*.py"):
        file.write_text(file.read_text().replace("from torch_utils", "from vendored.stylegan.torch_utils"))
    for folder in (package, package.parent):
        (folder / "__init__.py").write_text("")
    importlib.invalidate_caches()
    names = [f"vendored.stylegan.{name}" for name in TREE_MODULES]
    modules = {name: importlib.import_module(name) for name in names} if when == "after" else {}
    before = state()
    with nvlabs.installed():
        modules = {name: importlib.import_module(name) for name in names}
        check_all_ours({name.removeprefix("vendored.stylegan."): module for name, module in modules.items()})
    for module in modules.values():
        assert not any(is_ours(v) for v in vars(module).values() if hasattr(v, "__code__")), module.__name__
    if when == "after":
        assert state() == before


# ---- networks that call torch.nn.functional --------------------------------------------------------------------------------
@pytest.mark.parametrize("when", ["before", "after"])
def test_functional_convolutions(nvlabs_tree: Path, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    if when == "after":
        importlib.import_module("residual.networks")
    calls: list[str] = []
    for name in ("conv2d", "conv_transpose2d"):
        real = getattr(ops, name)
        monkeypatch.setattr(ops, name, lambda *a, _n=name, _r=real, **k: (calls.append(_n), _r(*a, **k))[1])
    with nvlabs.installed():
        networks, plain = importlib.import_module("residual.networks"), importlib.import_module("residual.plain")
        torch.manual_seed(0)
        critic, images = networks.Critic().double(), torch.randn(2, 3, 6, 6, dtype=torch.float64)
        got = penalised(critic, list(critic.parameters()), images)
        assert calls.count("conv2d") == 2 and calls.count("conv_transpose2d") == 1
        assert plain.F is torch.nn.functional, "no network"
        assert networks.nn.functional.relu is torch.nn.functional.relu and networks.nn.Conv2d is torch.nn.Conv2d
        assert isinstance(critic, networks.nn.Module)
    calls.clear()
    close(got, penalised(critic, list(critic.parameters()), images))
    with nvlabs.installed(functional_conv=False):
        close(got, penalised(critic, list(critic.parameters()), images))
        assert networks.nn is torch.nn
    assert not calls


def test_functional_view_leaves_to_torch_what_gankern_does_not_know(nvlabs_tree: Path) -> None:
    with nvlabs.installed():
        functional = importlib.import_module("residual.networks").nn.functional
        x, w = torch.randn(3, 6, 6), torch.randn(2, 3, 3, 3)
        torch.testing.assert_close(functional.conv2d(x, w, padding="same"), torch.nn.functional.conv2d(x, w, padding="same"))
        x, w = x[None].to(torch.complex64), w.transpose(0, 1).to(torch.complex64)
        torch.testing.assert_close(functional.conv_transpose2d(x, w), torch.nn.functional.conv_transpose2d(x, w))
        with pytest.raises(RuntimeError):
            functional.conv2d(torch.randn(1, 3, 6, 6), torch.randn(2, 3, 3, 3, dtype=torch.float64))


def test_networks_outside_of_a_tree_are_left(nvlabs_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outside = tmp_path / "elsewhere"
    outside.mkdir()
    source = (nvlabs_tree / "residual" / "networks.py").read_text()
    (outside / "bad_fork.py").write_text(source.replace("from torch_utils.ops.bias_act import bias_act\n", ""))
    monkeypatch.syspath_prepend(str(outside))
    with nvlabs.installed():
        assert importlib.import_module("bad_fork").nn is torch.nn


def test_networks_compile_whole(nvlabs_tree: Path) -> None:
    with nvlabs.installed():
        critic = importlib.import_module("residual.networks").Critic()
        generator = importlib.import_module("training.networks_stylegan2").Generator()
        for network, x in ((critic, torch.randn(2, 3, 6, 6)), (generator.eval(), torch.randn(2, 8))):
            torch.testing.assert_close(torch.compile(network, backend="eager", fullgraph=True)(x), network(x))


# ---- checkouts of other names, and that fail ---------------------------------------------------------------------------------
def test_check_of_a_checkout_that_fits(nvlabs_tree: Path) -> None:
    found = nvlabs.check(nvlabs_tree)
    assert found.matches and not found.missing and not found.absent and not found.unknown
    assert found.found["conv2d_gradfix"] == ["conv2d", "conv_transpose2d", "no_weight_gradients", "enabled"]
    assert found.modulated == {"training/networks_stylegan2.py": True, "training/networks_stylegan3.py": True}
    nvlabs.install(tree=nvlabs_tree)
    nvlabs.uninstall()


def spoil(tree: Path) -> None:
    """A fork with other names."""
    folder = tree / "torch_utils" / "ops"
    text = (folder / "upfirdn2d.py").read_text()
    (folder / "upfirdn2d.py").write_text(text.replace("def downsample2d", "def shrink2d").replace("def filter2d", "def blur2d"))
    (folder / "fma.py").unlink()
    networks = tree / "training" / "networks_stylegan3.py"
    networks.write_text(networks.read_text().replace("input_gain=None):", "input_gain=None, more=1):"))


def test_a_checkout_of_other_names_gives_one_message(nvlabs_tree: Path) -> None:
    spoil(nvlabs_tree)
    before = state()
    with pytest.raises(ValueError) as caught:
        nvlabs.install(tree=nvlabs_tree)
    message = str(caught.value)
    assert state() == before and not nvlabs.is_installed()
    assert "found upfirdn2d: setup_filter, upfirdn2d, upsample2d\n" in message
    assert "not found in upfirdn2d: filter2d, downsample2d" in message and "not found: torch_utils/ops/fma.py" in message
    assert "unknown, left as they are, in upfirdn2d: blur2d, shrink2d" in message
    assert "networks_stylegan3.py: an unknown signature" in message and "networks_stylegan2.py: replaced" in message
    with warnings.catch_warnings(record=True) as caught_warnings, nvlabs.installed():
        warnings.simplefilter("always")
        importlib.import_module("training.networks_stylegan2")
        fork = importlib.import_module("training.networks_stylegan3")
        assert not is_ours(fork.modulated_conv2d)
    messages = [str(w.message) for w in caught_warnings if issubclass(w.category, CompatWarning)]
    assert len(messages) == 1 and "not found in upfirdn2d: filter2d, downsample2d" in messages[0]


@pytest.mark.parametrize("what", ["nothing", "no folder"])
def test_a_folder_that_is_no_checkout(tmp_path: Path, what: str) -> None:
    if what == "no folder":
        with pytest.raises(NotADirectoryError, match="tree must be the folder of a checkout, got"):
            nvlabs.install(tree=tmp_path / "missing")
    else:
        (tmp_path / "inner" / "torch_utils" / "ops").mkdir(parents=True)
        with pytest.raises(ValueError, match=r"does not have the names.*\n.*not found: torch_utils/ops/bias_act.py") as caught:
            nvlabs.install(tree=str(tmp_path))
        assert f"there is a torch_utils/ops in {tmp_path / 'inner'}: give that folder" in str(caught.value)
    assert not nvlabs.is_installed()


def test_an_operator_that_cannot_be_imported_is_supplied(nvlabs_tree: Path) -> None:
    (nvlabs_tree / "torch_utils" / "ops" / "fma.py").write_text("LEFT = 1\nimport cuda_that_is_not_there\n")
    with (
        pytest.warns(CompatWarning, match=r"torch_utils\.ops\.fma fails when it is imported.*cuda_that_is_not_there"),
        nvlabs.installed(),
    ):
        from torch_utils.ops import fma

        assert is_ours(fma.fma) and not hasattr(fma, "LEFT")
    assert "torch_utils.ops.fma" not in sys.modules


def test_an_error_of_the_codebase_itself_is_its_own(nvlabs_tree: Path) -> None:
    (nvlabs_tree / "training" / "broken.py").write_text("import torch_utils.ops.fma\n1 / 0\n")
    (nvlabs_tree / "torch_utils" / "misc.py").write_text("1 / 0\n")
    with nvlabs.installed():
        for name in ("training.broken", "torch_utils.misc"):
            with pytest.raises(ZeroDivisionError):
                importlib.import_module(name)
            assert name not in sys.modules


# ---- what old code imports ---------------------------------------------------------------------------------------------------
OLD = ("pkg_resources", "distutils", "torch._six")


@pytest.fixture
def newest(monkeypatch: pytest.MonkeyPatch, no_nvlabs: None) -> None:
    """A Python, setuptools and torch without any of these modules, whatever this machine has."""
    for name in list(sys.modules):
        if name.startswith(OLD):
            monkeypatch.delitem(sys.modules, name)

    real = importlib.machinery.PathFinder.find_spec
    hidden = [finder for finder in sys.meta_path if "distutils" not in type(finder).__module__.lower()]
    monkeypatch.setattr(sys, "meta_path", [f for f in hidden if "Distutils" not in type(f).__name__])
    monkeypatch.setattr(
        importlib.machinery.PathFinder, "find_spec", lambda n, p=None, t=None: None if n.startswith(OLD) else real(n, p, t)
    )


def test_old_modules_are_supplied(newest: None) -> None:
    for name in OLD:
        with pytest.raises(ImportError):
            importlib.import_module(name)
    with nvlabs.installed():
        from distutils.util import strtobool
        from distutils.version import LooseVersion, StrictVersion

        from pkg_resources import DistributionNotFound, get_distribution, parse_version
        from torch._six import container_abcs, inf, string_classes

        assert parse_version("1.12.0a0") < parse_version("1.12") < parse_version(torch.__version__)
        assert get_distribution("torch").version and issubclass(DistributionNotFound, Exception)
        assert LooseVersion("1.10") > "1.9" and LooseVersion("1.10") >= LooseVersion("1.9") and StrictVersion("2.0") == "2.0"
        assert LooseVersion("1.9") != "1.10" and LooseVersion("1.9") <= "1.9" and LooseVersion(torch.__version__) > "1.7"
        assert strtobool("Yes") == 1 and strtobool("off") == 0
        with pytest.raises(ValueError, match="maybe"):
            strtobool("maybe")
        assert inf == float("inf") and isinstance("a", string_classes) and issubclass(list, container_abcs.Sequence)
    assert not [name for name in sys.modules if name.startswith(OLD)] and not hasattr(torch, "_six")


def test_old_modules_that_are_there_are_left(no_nvlabs: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pkg_resources.py").write_text("MINE = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "pkg_resources", raising=False)
    with nvlabs.installed():
        assert importlib.import_module("pkg_resources").MINE == 1
    del sys.modules["pkg_resources"]


def test_changes_are_taken_back_in_order() -> None:
    module, changes = ModuleType("somewhere"), Changes()
    module.a = 1  # type: ignore[attr-defined]
    mapping = {"x": 1}
    changes.set(module, "a", 2)
    changes.set(module, "a", 3)
    changes.set(module, "b", 4)
    changes.set_item(mapping, "x", 5)
    changes.set_item(mapping, "y", 6)
    assert (module.a, module.b, mapping) == (3, 4, {"x": 5, "y": 6})
    changes.undo()
    assert module.a == 1 and not hasattr(module, "b") and mapping == {"x": 1}
