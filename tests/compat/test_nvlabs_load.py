"""Pickles that bring the source of their networks, with and without a checkout."""

from __future__ import annotations

import copy
import importlib
import io
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from nvlabs_names import NVLABS_NAMES, forget_modules
from torch import Tensor

from gankern import ops
from gankern.compat import nvlabs

GENERATORS = {"stylegan2": "training.networks_stylegan2", "stylegan3": "training.networks_stylegan3"}


@pytest.fixture(params=GENERATORS)
def made(request: pytest.FixtureRequest, nvlabs_tree: Path, tmp_path: Path) -> Iterator[tuple[Path, Tensor, Tensor]]:
    """A pickle from the stand-in codebase by its own persistence, latents, and the images of its plain PyTorch."""
    networks = importlib.import_module(GENERATORS[request.param])
    torch.manual_seed(0)
    generator, z = networks.Generator().double().eval(), torch.randn(2, 8, dtype=torch.float64)
    pipe = importlib.import_module("training.augment").AugmentPipe()
    settings = importlib.import_module("dnnlib.util").EasyDict(path="images.zip")
    path = tmp_path / "network.pkl"
    path.write_bytes(pickle.dumps({"G": None, "G_ema": generator, "augment_pipe": pipe, "training_set_kwargs": settings}))
    images = generator(z).detach()
    forget_modules(NVLABS_NAMES)
    pickled = [name for name in sys.modules if name.startswith(("_gankern_pickled", "_stand_in"))]
    yield path, z, images
    for name in list(sys.modules):
        if name.startswith(("_gankern_pickled", "_stand_in")) and name not in pickled:
            del sys.modules[name]


@pytest.fixture
def network(made: tuple[Path, Tensor, Tensor], nvlabs_tree: Path) -> tuple[Path, Tensor, Tensor]:
    """The same without a checkout."""
    sys.path.remove(str(nvlabs_tree))
    return made


def codebase_modules() -> set[str]:
    return {name for name in sys.modules if name.partition(".")[0] in NVLABS_NAMES}


def check_on_gankern(generator: Any, z: Tensor, images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal images, by gankern's operators, and a second derivative."""
    calls: set[str] = set()
    with monkeypatch.context() as patch:
        for name in ("modulated_conv2d", "bias_act", "filtered_lrelu"):
            real = getattr(ops, name)
            patch.setattr(ops, name, lambda *a, _n=name, _r=real, **k: (calls.add(_n), _r(*a, **k))[1])
        torch.testing.assert_close(generator(z).detach(), images)
    assert "modulated_conv2d" in calls and len(calls) == 2
    z = z.clone().requires_grad_()
    (g,) = torch.autograd.grad(generator(z).square().sum(), z, create_graph=True)
    assert all(float(t.norm()) > 0 for t in torch.autograd.grad(g.square().sum(), [z, generator.const]))


def test_without_a_checkout(network: tuple[Path, Tensor, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    path, z, images = network
    content = nvlabs.load(path, trust=True)
    assert list(content) == ["G", "G_ema", "augment_pipe", "training_set_kwargs"] and content["G"] is None
    assert content["training_set_kwargs"].path == "images.zip"
    assert not nvlabs.is_installed() and not codebase_modules(), "nothing is left behind"
    generator = content["G_ema"]
    check_on_gankern(generator, z, images, monkeypatch)
    assert content["augment_pipe"](torch.rand(2, 3, 8, 8)).shape == (2, 3, 8, 8)
    assert type(nvlabs.load(io.BytesIO(path.read_bytes()), trust=True)["G_ema"]) is type(generator), "its source runs once"


def test_copies_and_pickles(network: tuple[Path, Tensor, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    path, z, images = network
    content = nvlabs.load(path, trust=True)
    twin = copy.deepcopy(content["G_ema"])
    assert twin.const is not content["G_ema"].const
    check_on_gankern(twin, z, images, monkeypatch)
    again = pickle.loads(pickle.dumps(content))
    check_on_gankern(again["G_ema"], z, images, monkeypatch)
    assert again["training_set_kwargs"] == {"path": "images.zip"}


def test_the_codebase_reads_what_is_pickled_under_the_shim(network: tuple[Path, Tensor, Tensor], nvlabs_tree: Path) -> None:
    path, z, images = network
    content = nvlabs.load(path, trust=True)
    with nvlabs.installed():
        importlib.import_module("torch_utils.persistence")
        data = pickle.dumps(content)
    assert b"gankern.compat" not in data and b"torch_utils.persistence" in data
    sys.path.insert(0, str(nvlabs_tree))
    loaded = pickle.loads(data)
    assert "gankern" not in sys.modules["torch_utils.ops.bias_act"].bias_act.__code__.co_filename
    torch.testing.assert_close(loaded["G_ema"](z), images)


def test_pickles_of_gankern_are_read_in_another_process_and_run_their_source(
    network: tuple[Path, Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """pickle.loads alone is enough: what the source imports is supplied for as long as it runs."""
    from gankern.compat.nvlabs import persistence

    path, z, images = network
    data = pickle.dumps(nvlabs.load(path, trust=True)["G_ema"])
    for source, module in list(persistence._modules.items()):
        monkeypatch.delitem(persistence._modules, source)
        monkeypatch.delitem(sys.modules, module.__name__, raising=False)
    check_on_gankern(pickle.loads(data), z, images, monkeypatch)
    assert not codebase_modules()


@pytest.mark.parametrize("installed", [False, True])
def test_with_a_checkout(
    made: tuple[Path, Tensor, Tensor], nvlabs_tree: Path, monkeypatch: pytest.MonkeyPatch, installed: bool
) -> None:
    """The codebase's own torch_utils makes the networks; they stay on gankern's operators, the codebase does not."""
    path, z, images = made
    if installed:
        nvlabs.install()
    generator = nvlabs.load(path, trust=True)["G_ema"]
    if installed:
        nvlabs.uninstall()
    from torch_utils.ops import bias_act

    assert str(nvlabs_tree) in bias_act.__file__ and "gankern" not in bias_act.bias_act.__code__.co_filename
    check_on_gankern(generator, z, images, monkeypatch)


def test_a_codebases_own_loader_under_the_shim(made: tuple[Path, Tensor, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    """Like legacy.load_network_pkl: while the shim is installed on gankern's operators, then on its own."""
    path, z, images = made
    with nvlabs.installed():
        generator = pickle.loads(path.read_bytes())["G_ema"]
        check_on_gankern(generator, z, images, monkeypatch)
    monkeypatch.setattr(ops, "modulated_conv2d", None)
    monkeypatch.setattr(ops, "bias_act", None)
    torch.testing.assert_close(generator(z), images)


def test_device_and_tensors(network: tuple[Path, Tensor, Tensor], tmp_path: Path) -> None:
    path, *_ = network
    assert nvlabs.load(path, trust=True, device="meta")["G_ema"].const.device.type == "meta"
    data = pickle.dumps({"a": [torch.ones(2)], "b": (torch.ones(3), "text")})
    loaded = nvlabs.load(io.BytesIO(data), trust=True, device=torch.device("meta"))
    assert loaded["a"][0].is_meta and loaded["b"][0].is_meta and loaded["b"][1] == "text"


def test_tensors_of_a_gpu_come_to_the_cpu(no_nvlabs: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their storages are pickled with where they were, which is asked for before anything else."""
    with monkeypatch.context() as patch:
        patch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        data = pickle.dumps(torch.arange(3.0))
    assert b"cuda:0" in data
    assert nvlabs.load(io.BytesIO(data), trust=True).tolist() == [0, 1, 2]


# ---- what is refused -------------------------------------------------------------------------------------------------------
class Bomb:
    def __reduce__(self) -> Any:
        return pytest.fail, ("code of the pickle ran",)


@pytest.mark.parametrize("trust", [False, None, 1, "yes"])
def test_trust_is_asked_for_before_anything_runs(tmp_path: Path, trust: Any) -> None:
    path = tmp_path / "bomb.pkl"
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match=r"can run any code.*trust=True.*bomb\.pkl.*got trust="):
        nvlabs.load(path, trust=trust)
    with pytest.raises(ValueError, match="trust=True"):
        nvlabs.load(path)


def meta(**changes: Any) -> bytes:
    """A pickle of an object with changes to its dict."""
    content = {"type": "class", "version": 6, "module_src": "class A: pass\n", "class_name": "A", "state": {"x": 1}} | changes

    class Made:
        def __reduce__(self) -> Any:
            return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (content,)

    with nvlabs.installed():
        importlib.import_module("torch_utils.persistence")
        return pickle.dumps(Made())


def test_a_plain_persistent_object(no_nvlabs: None) -> None:
    made = nvlabs.load(io.BytesIO(meta()), trust=True)
    assert made.x == 1 and type(made).__name__ == "A"


@pytest.mark.parametrize(
    "data, error, message",
    [
        (b"", ValueError, "truncated or not a pickle"),
        (b"no pickle", ValueError, "truncated or not a pickle"),
        (pickle.dumps({"a": list(range(99))})[:-20], ValueError, "truncated or not a pickle"),
        (b"cdnnlib.tflib.network\nNetwork\n.", ValueError, "TensorFlow"),
        ({"version": 5}, ValueError, "version 6, got 'class' and 5"),
        ({"class_name": "B"}, ValueError, "no class 'B'"),
        ({"module_src": "import not_installed_here\n"}, ModuleNotFoundError, "'not_installed_here'.*checkout"),
    ],
)
def test_files_that_cannot_be_loaded(no_nvlabs: None, data: Any, error: type[Exception], message: str) -> None:
    nvlabs.load(io.BytesIO(meta()), trust=True)  # a source that runs stays, to be run once; one that fails must not
    before = set(sys.modules)
    with pytest.raises(error, match=message):
        nvlabs.load(io.BytesIO(data if isinstance(data, bytes) else meta(**data)), trust=True)
    assert not nvlabs.is_installed() and not codebase_modules()
    assert not [name for name in set(sys.modules) - before if name.startswith("_gankern_pickled")]


def test_bad_arguments(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        nvlabs.load(tmp_path / "missing.pkl", trust=True)
    with pytest.raises(TypeError, match="file must be a path or a file opened for reading bytes, got int"):
        nvlabs.load(3, trust=True)  # type: ignore[arg-type]


# ---- persistence of gankern's own -------------------------------------------------------------------------------------------
def test_persistent_classes(no_nvlabs: None) -> None:
    with nvlabs.installed():
        from torch_utils import persistence

        seen = []
        source = "from torch_utils.persistence import persistent_class\n@persistent_class\nclass A:\n"
        source += "    def __init__(self, a, b=2):\n        self.sum = a + b\n"
        source += "    def __getstate__(self):\n        return {'sum': self.sum + 1}\n"
        module = persistence._src_to_module(source)
        a = module.A(1, b=3)
        assert a.init_args == (1,) and a.init_kwargs.b == 3 and persistence.is_persistent(a)
        assert persistence.persistent_class(module.A) is module.A
        hooks = importlib.import_module("gankern.compat.nvlabs.persistence")._hooks
        try:
            persistence.import_hook(lambda meta: (seen.append(meta.class_name), meta)[1])
            assert pickle.loads(pickle.dumps(a)).sum == 5 and seen == ["A"]
        finally:
            hooks.clear()
        with pytest.raises(TypeError, match="orig_class must be a class, got 3"):
            persistence.persistent_class(3)
        with pytest.raises(TypeError, match="hook must be callable"):
            persistence.import_hook(3)
