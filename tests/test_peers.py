"""benchmarks/peers.py on a stand-in of a checkout: networks on ``torch_utils.ops`` whose operators are plain PyTorch."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch

from gankern.bench.common import BenchError

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # plain `pytest` puts tests/ there only

from benchmarks import peers  # noqa: E402
from benchmarks.peer_codebases import CODEBASES, fill, networks_of  # noqa: E402

OPS = {
    "upfirdn2d": """
        from gankern.ops import setup_filter
        from gankern.ops.upfirdn2d.reference import upfirdn2d_reference

        def upfirdn2d(x, f, up=1, down=1, padding=0, flip_filter=False, gain=1, impl='cuda'):
            return upfirdn2d_reference(x, f, up, down, padding, flip_filter, gain)
        """,
    "bias_act": """
        from gankern.ops.bias_act.reference import bias_act_reference

        def bias_act(x, b=None, dim=1, act='linear', alpha=None, gain=None, clamp=None, impl='cuda'):
            return bias_act_reference(x, b, dim, act, alpha, gain, clamp) FACTOR
        """,
    "conv2d_gradfix": """
        import contextlib
        import torch

        enabled = False
        weight_gradients_disabled = False

        @contextlib.contextmanager
        def no_weight_gradients(disable=True):
            yield

        def conv2d(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
            return torch.nn.functional.conv2d(input, weight, bias, stride, padding, dilation, groups)

        def conv_transpose2d(input, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
            return torch.nn.functional.conv_transpose2d(
                input, weight, bias, stride, padding, output_padding, groups, dilation
            )
        """,
}
NETWORKS = """
    import torch
    from torch import nn
    from torch_utils.ops import bias_act, conv2d_gradfix, upfirdn2d

    class Block(nn.Module):
        def __init__(self, inside, outside, **resample):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(outside, inside, 3, 3) / (3 * inside**0.5))
            self.bias = nn.Parameter(torch.zeros(outside))
            self.register_buffer('f', upfirdn2d.setup_filter([1, 3, 3, 1]))
            self.resample = resample

        def forward(self, x):
            y = upfirdn2d.upfirdn2d(x, self.f, **self.resample)
            return bias_act.bias_act(conv2d_gradfix.conv2d(y, self.weight, padding=1), self.bias, act='lrelu')

    class Mapping(nn.Module):
        def __init__(self, z_dim, layers):
            super().__init__()
            self.layer = nn.Linear(z_dim, 8)

        def forward(self, z, c):
            return self.layer(z)[:, None].repeat(1, 2, 1)

    class Synthesis(nn.Module):
        def __init__(self, resolution, channels):
            super().__init__()
            self.size, self.noise = resolution // 2, nn.Parameter(torch.zeros(()))
            self.scale = nn.Linear(8, channels)
            self.up = Block(channels, channels, up=2, padding=[2, 1, 2, 1], gain=4)
            self.rgb = nn.Conv2d(channels, 3, 1)
            self.const = nn.Parameter(torch.randn(1, channels, self.size, self.size))

        def forward(self, ws, noise_mode):
            assert noise_mode == 'const'
            return self.rgb(self.up(self.const * self.scale(ws[:, 0])[:, :, None, None]) + self.noise)

    class Generator(nn.Module):
        def __init__(self, z_dim, c_dim, w_dim, img_resolution, img_channels, mapping_kwargs, synthesis_kwargs):
            super().__init__()
            self.z_dim, self.img_resolution = 16, img_resolution
            self.mapping = Mapping(16, mapping_kwargs['num_layers'])
            self.synthesis = Synthesis(img_resolution, synthesis_kwargs['channel_max'])

    class Discriminator(nn.Module):
        def __init__(self, c_dim, img_resolution, img_channels, channel_base, channel_max, num_fp16_res, epilogue_kwargs):
            super().__init__()
            self.block = Block(3, channel_max, down=2, padding=[1, 1, 1, 1])
            self.last = nn.Linear(channel_max, 1)

        def forward(self, x, c):
            return self.last(self.block(x).square().mean((2, 3)))
    """


def checkout(folder: Path, factor: str = "") -> Path:
    """A tree that looks like stylegan2-ada-pytorch from outside."""
    files = {f"torch_utils/ops/{name}.py": text.replace("FACTOR", factor) for name, text in OPS.items()}
    files |= {"training/networks.py": NETWORKS, "torch_utils/__init__.py": "", "torch_utils/ops/__init__.py": ""}
    for name, text in {**files, "training/__init__.py": ""}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    return folder


def measure(tree: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.peers", "--tree", str(tree), "--codebase", "stylegan2-ada", "--model", "tiny"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, *options], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    return done


def test_a_run_from_the_shell(tmp_path: Path) -> None:
    tree, out = checkout(tmp_path / "tree"), tmp_path / "results" / "peers-stand-in.json"
    done = measure(tree, "--rounds", "2", "--threads", "1", "--commit", "abc123", "--out", str(out))
    assert done.returncode == 0, done.stdout + done.stderr
    data = json.loads(out.read_text())
    assert data["complete"] and data["format"] == peers.FORMAT
    assert data["tree"]["commit"] == "abc123" and len(data["tree"]["sha256_of_python_files"]) == 64
    assert str(tmp_path) not in out.read_text() and "--tree CHECKOUT" in data["command"]
    assert data["machine"]["threads"] == 1 and data["machine"]["versions"]["torch"] == torch.__version__
    assert [row["phase"] for row in data["phases"]] == ["forward", "generator_step", "path_length", "r1_step"]
    for row in data["phases"]:
        assert row["agrees"] and row["difference"] < 1e-4
        assert set(row["times"]) == set(peers.SIDES) and all(t["rounds"] == 2 for t in row["times"].values())
        assert row["ratio"] == row["times"]["own"]["median"] / row["times"]["ours"]["median"]
        assert (
            row["ceiling"] == row["times"]["own"]["median"] / row["times"]["convolutions"]["median"] and row["convolutions"] > 0
        )
        assert {"upfirdn2d", "bias_act"} <= {name.split()[0] for name in row["operators"]}
        assert row["phase"].replace("_", " ") in done.stdout
    assert "gankern" in done.stdout and "ceiling" in done.stdout


def test_a_difference_is_seen(tmp_path: Path) -> None:
    done = measure(checkout(tmp_path, "* 1.05"), "--rounds", "1", "--phases", "forward,r1_step")
    assert done.returncode == 1
    assert done.stdout.count("DIFFERS") == 2 and "e-02 DIFFERS (images)" in done.stdout


def test_a_tree_that_the_shim_does_not_reach(tmp_path: Path) -> None:
    tree = checkout(tmp_path)
    networks = tree / "training" / "networks.py"
    networks.write_text(networks.read_text().replace("from torch_utils.ops import", "from other import"))
    shutil.copytree(tree / "torch_utils" / "ops", tree / "other")
    done = measure(tree, "--rounds", "1", "--phases", "forward")
    assert done.returncode == 2 and "no operator of gankern ran in forward" in done.stderr, done.stdout + done.stderr


def test_networks_leave_no_modules_behind(tmp_path: Path) -> None:
    before = set(sys.modules), list(sys.path)
    tree, codebase = checkout(tmp_path), CODEBASES["stylegan2-ada"]
    with networks_of(codebase, tree, codebase.models["tiny"].settings) as nets:
        assert "training.networks" in sys.modules
        phases = peers.Phases(nets, 2)
        first, again = phases.run("path_length"), phases.run("path_length")
        assert all(torch.equal(first[name], again[name]) for name in first)
        assert first["synthesis.scale.weight"].any() and first["synthesis.up.weight"].any()
        assert all(p.any() for p in nets.generator.parameters())  # none is left at zero
    left = {name for name in set(sys.modules) - before[0] if name.split(".")[0] in ("training", "torch_utils", "pkg_resources")}
    assert not left and sys.path == before[1]


def test_fill_keeps_what_is_not_zero() -> None:
    layer = torch.nn.Conv2d(2, 3, 1)
    torch.nn.init.zeros_(layer.bias)
    kept = layer.weight.clone()
    fill(layer)
    assert torch.equal(layer.weight, kept) and layer.bias.all()


def test_convolutions_are_noted_and_repeated() -> None:
    conv, depthwise = torch.nn.Conv2d(4, 6, 3), torch.nn.Conv2d(6, 6, 3, groups=6)
    x = torch.randn(2, 4, 8, 8, requires_grad=True)
    with peers.Convolutions() as recorder:
        depthwise(conv(x)).sum().backward()
        conv(x)
    assert sum(recorder.calls.values()) == 3  # twice forward, once backward; depthwise ones are filters
    assert max(recorder.calls.values()) == 2
    assert recorder.seconds() > 0


def test_differences() -> None:
    own = {"a": torch.ones(4), "b": torch.tensor([1e-9, 0.0])}
    assert (
        peers.difference({"a": torch.ones(4), "b": torch.tensor([2e-9, 0.0])}, own)[0] < 1e-5
    )  # rounding of what is nearly zero
    assert peers.difference({"a": torch.ones(4) * 1.01, "b": own["b"]}, own) == (pytest.approx(0.01, rel=1e-5), "a")
    assert peers.difference({"a": torch.ones(4) * float("nan"), "b": own["b"]}, own) == (float("inf"), "a")
    numbers = {"c": torch.tensor(3.0), "d": torch.tensor([4.0])}
    assert peers.difference({"c": torch.tensor(3.0), "d": torch.tensor([4.5])}, numbers) == (
        pytest.approx(0.1),
        "single numbers",
    )


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--codebase", "r3gan"], "--tree must be given"),
        (["--tree", "."], "--codebase must be given"),
        (["--tree", "nowhere", "--codebase", "r3gan"], "no such folder"),
        (["--tree", ".", "--codebase", "r3gan"], "not a checkout of R3GAN: training/networks.py, R3GAN/Trainer.py not found"),
        (["--tree", ".", "--codebase", "r3gan", "--model", "9"], "--model must be one of 32, 64, tiny for r3gan, got '9'"),
        (
            ["--tree", ".", "--codebase", "r3gan", "--phases", "r1_step"],
            "--phases must be of forward, generator_step, training_step",
        ),
        (["--tree", ".", "--codebase", "r3gan", "--rounds", "0"], "--rounds must be at least 1, got 0"),
    ],
)
def test_bad_arguments(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert peers.main(arguments) == 2
    assert message in capsys.readouterr().err


def test_docs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {
        "phase": "r1_step", "ratio": 2.0, "ceiling": None, "difference": 1e-6, "differs_most": "x", "agrees": True,
        "times": {side: {"median": 1.0 if side == "own" else 0.5} for side in peers.SIDES},
    }  # fmt: skip
    data = {
        "title": "Tree", "model": "128", "batch": 4, "goals": {"r1_step": 2.5}, "phases": [row],
        "tree": {"commit": "0123456789abcdef"},
        "machine": {"device": "A CPU", "threads": 2, "commit": None, "versions": {"torch": "2.13", "gankern": "0.1"}},
    }  # fmt: skip
    file, page = tmp_path / "peers-tree.json", tmp_path / "compat.md"
    file.write_text(json.dumps(data))
    page.write_text(f"before\n{peers.BEGIN}\nold\n{peers.END}\nafter\n")
    assert peers.write_docs(page, [file], check=True) == 1
    assert "old" in page.read_text()
    assert peers.write_docs(page, [file], check=False) == 0
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert "| r1 step | 1.00 s | 500 ms | 2.00x | 2.5x MISSED | - | 1e-06 |" in text and "commit 0123456789)" in text
    assert peers.write_docs(page, [file], check=True) == 0
    page.write_text("no marks")
    with pytest.raises(BenchError, match="once each"):
        peers.write_docs(page, [file], check=False)


def test_the_page_holds_the_committed_results() -> None:
    assert peers.main(["--docs", "--check"]) == 0
