"""Feature extractors: the one for digits, pixels, users' modules, and Inception's weights where they are or are not."""

from __future__ import annotations

import ast
import importlib.machinery
import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from gankern.metrics import Extractor, Features, digits, extractors, make_extractor, train_digits
from gankern.metrics.digits import WEIGHTS, load_digits_network


def images(n: int = 3, c: int = 1, size: int = 8) -> torch.Tensor:
    return 2 * torch.rand(n, c, size, size, generator=torch.Generator().manual_seed(0)) - 1


# ---- digits ----------------------------------------------------------------------------------------------------------------
def test_the_digits_extractor_knows_digits_it_was_not_trained_on() -> None:
    pytest.importorskip("sklearn")
    x, y = train_digits.digits_images()
    held_out = train_digits.held_out(len(x))
    assert int(held_out.sum()) == 359
    network = load_digits_network()
    assert train_digits.accuracy(network, x[held_out], y[held_out]) > 0.98
    large = torch.nn.functional.interpolate(x[held_out], size=(64, 64), mode="nearest").expand(-1, 3, -1, -1)
    assert train_digits.accuracy(network, large, y[held_out]) > 0.97
    features, _ = network(x)
    assert float(features.square().mean().sqrt()) == pytest.approx(1, abs=0.15)
    assert bool((features >= 0).all()) and features.shape == (1797, 64)


def test_training_learns() -> None:
    """A tenth of the training that made the weights: far better than chance, and repeatable."""
    pytest.importorskip("sklearn")
    network, share = train_digits.train(epochs=3)
    assert share > 0.8 and not network.training
    assert torch.equal(network.head.weight, train_digits.train(epochs=3)[0].head.weight)


def test_the_weights_are_small_and_their_loss_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert WEIGHTS.stat().st_size < 200_000
    monkeypatch.setattr(digits, "WEIGHTS", tmp_path / "w.npz")
    with pytest.raises(FileNotFoundError, match=r"w\.npz', are missing: reinstall gankern"):
        make_extractor("digits")
    (tmp_path / "w.npz").write_bytes(WEIGHTS.read_bytes()[:60_000])
    with pytest.raises(ValueError, match=r"w\.npz', are truncated: reinstall"):
        make_extractor("digits")


def test_optional_packages_are_imported_when_they_are_needed() -> None:
    for path in Path(digits.__file__).parent.glob("*.py"):
        tops = [node for node in ast.parse(path.read_text()).body if isinstance(node, (ast.Import, ast.ImportFrom))]
        names = {node.module or "" for node in tops if isinstance(node, ast.ImportFrom)}
        names |= {alias.name for node in tops if isinstance(node, ast.Import) for alias in node.names}
        optional = ("scipy", "sklearn", "PIL", "tqdm", "torch_fidelity", "lpips", "gankern.train", "gankern.models")
        assert not [n for n in names if n.startswith(optional)], path.name


# ---- users' modules --------------------------------------------------------------------------------------------------------
def test_outputs_that_are_understood() -> None:
    x = images()
    assert make_extractor("pixels")(x).values.shape == (3, 64)
    assert torch.equal(make_extractor(lambda v: v.mean(1))(x).values, x.mean(1).flatten(1))  # [N, H, W] is flattened
    both = make_extractor(lambda v: (v.flatten(1).double(), v.mean((2, 3))))(x)
    assert both.values.dtype == torch.float32 and both.logits is not None and both.logits.shape == (3, 1)
    assert len(make_extractor(lambda v: Features(v.flatten(1)))(x)) == 3
    mine = Extractor("mine", lambda v: v.flatten(1))
    assert make_extractor(mine) is mine


@pytest.mark.parametrize(
    "function, message",
    [
        (lambda v: v.mean(), r"extractor .*features must be \[3, D\], got \[\]"),
        (lambda v: v[:2].flatten(1), r"features must be \[3, D\], got \[2, 64\]"),
        (lambda v: v.flatten(1).numpy(), "features must be a torch.Tensor"),
        (lambda v: v.flatten(1) * float("nan"), "features must be finite"),
        (lambda v: (v.flatten(1), v.mean((1, 2, 3))), r"logits must be \[3, D\], got \[3\]"),
    ],
)
def test_outputs_that_are_refused(function: object, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        make_extractor(function)(images())


def test_modules_have_keys_of_their_weights() -> None:
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(0.5), torch.nn.Linear(64, 4))
    extractor = make_extractor(module.train())
    assert not module.training and torch.equal(extractor(images()).values, extractor(images()).values)
    assert extractor.key == make_extractor(module).key
    with torch.no_grad():
        module[2].bias += 1
    assert make_extractor(module).key != extractor.key
    assert make_extractor(lambda v: v.flatten(1)).key is None


def test_modules_from_files_and_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = images()
    script = torch.jit.trace(torch.nn.Flatten(), x)
    script.save(tmp_path / "flat.pt")
    assert torch.equal(make_extractor(f"module:{tmp_path / 'flat.pt'}")(x).values, x.flatten(1))
    (tmp_path / "own_extractor.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Flatten):\n    pass\n"
        "def make():\n    return Net()\n"
        "def rows(images):\n    return images.mean(3)\n"
        "number = 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for where in (tmp_path / "own_extractor.py", "own_extractor"):
        for name in ("Net", "make"):
            assert make_extractor(f"module:{where}:{name}")(x).values.shape == (3, 64)
        assert make_extractor(f"module:{where}:rows")(x).values.shape == (3, 8)
        with pytest.raises(TypeError, match=r"'number' of .* must be a module or a function of images, got int"):
            make_extractor(f"module:{where}:number")
        with pytest.raises(ValueError, match="has no 'other'"):
            make_extractor(f"module:{where}:other")
    data = (tmp_path / "flat.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"cut\.pt' is truncated or no TorchScript file"):
        make_extractor(f"module:{tmp_path / 'cut.pt'}")
    with pytest.raises(FileNotFoundError, match=r"no file 'nowhere\.pt'"):
        make_extractor("module:nowhere.pt")


def test_names_that_are_none() -> None:
    with pytest.raises(ValueError, match=r"extractor must be one of digits, pixels, inception, .* got 'resnet'"):
        make_extractor("resnet")
    with pytest.raises(TypeError, match=r"extractor must be a name .* got int"):
        make_extractor(3)


# ---- inception -------------------------------------------------------------------------------------------------------------
def test_inception_says_which_file_is_missing_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With torch-fidelity or a stand-in for it: what is looked at before any weight is read."""
    monkeypatch.setitem(sys.modules, "torch_fidelity", importlib.util.module_from_spec(_empty("torch_fidelity")))
    inner = importlib.util.module_from_spec(_empty("torch_fidelity.feature_extractor_inceptionv3"))
    read = []

    class Network(torch.nn.Module):
        def __init__(self, name: str, features: list[str], feature_extractor_weights_path: str) -> None:
            super().__init__()
            read.append(feature_extractor_weights_path)
            torch.load(feature_extractor_weights_path, weights_only=True)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            assert x.dtype == torch.uint8 and x.shape[1] == 3
            return x.flatten(1).float(), x.float().mean((2, 3))

    inner.FeatureExtractorInceptionV3 = Network  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, inner.__name__, inner)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.delenv(extractors.INCEPTION_VARIABLE, raising=False)
    place = tmp_path / "hub" / "checkpoints" / extractors.INCEPTION_FILE
    with pytest.raises(FileNotFoundError) as told:
        make_extractor("inception")
    assert str(place) in str(told.value) and "https://github.com/toshas/torch-fidelity/" in str(told.value)
    with pytest.raises(FileNotFoundError, match=r"at none of: .*mine\.pth\."):
        make_extractor(f"inception:{tmp_path / 'mine.pth'}")
    place.parent.mkdir(parents=True)
    torch.save({}, place)
    x = (torch.arange(256.0).view(1, 1, 16, 16) / 127.5) - 1
    found = make_extractor("inception")(x)
    assert read == [str(place)] and torch.equal(found.values, torch.arange(256.0).repeat(3)[None]) and found.logits is not None
    monkeypatch.setenv(extractors.INCEPTION_VARIABLE, str(tmp_path / "named.pth"))
    torch.save({"other": 1}, tmp_path / "named.pth")
    assert make_extractor("inception").key != make_extractor(f"inception:{place}").key and read[1] == str(
        tmp_path / "named.pth"
    )
    (tmp_path / "named.pth").write_bytes(b"cut")
    with pytest.raises(ValueError, match=r"named\.pth' is truncated or holds other weights"):
        make_extractor("inception")


def _empty(name: str) -> importlib.machinery.ModuleSpec:
    return importlib.machinery.ModuleSpec(name, None)


def test_inception_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(ImportError, match="pip install torch-fidelity"):
        make_extractor("inception")
