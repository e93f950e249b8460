"""``gankern run``: what it recognises, what the script finds, and what becomes of its exit code, exceptions and workers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from small_trees import write

from gankern import _dispatch
from gankern.cli import main
from gankern.compat import _detect, run

ROSINALITY = {
    "op/__init__.py": "from .fused_act import fused_leaky_relu\n",
    "op/fused_act.py": "raise RuntimeError('this would compile an extension')\n",
    "op/upfirdn2d.py": "raise RuntimeError('this would compile an extension')\n",
}
NVLABS = {
    "torch_utils/__init__.py": "",
    "torch_utils/ops/__init__.py": "",
    "torch_utils/ops/bias_act.py": "raise RuntimeError\n",
}


def command(folder: Path, *words: str, launcher: tuple[str, ...] = ("-m", "gankern", "run"), **more: str) -> Any:
    """``python -m gankern run WORDS`` in a folder, without our own folders on its path."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "RANK", "LOCAL_RANK")}
    environment |= {"OMP_NUM_THREADS": "1", **more}
    made = [sys.executable, *launcher, *words]
    return subprocess.run(made, cwd=folder, capture_output=True, text=True, env=environment, timeout=240)


# ---- what is recognised ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "files, expected",
    [
        (NVLABS, ["nvlabs"]),
        (ROSINALITY, ["rosinality"]),
        ({f"models/{name}": text for name, text in ROSINALITY.items()}, ["rosinality"]),
        ({"model.py": "import math\nfrom op import FusedLeakyReLU, upfirdn2d\n"}, ["rosinality"]),
        ({"lib/model.py": "if True:\n    import op.upfirdn2d as u\n"}, ["rosinality"]),
        ({"net.py": "from mmcv.ops.upfirdn2d import upfirdn2d\n"}, ["mmcv"]),
        ({"net.py": "from mmcv import cnn, ops\n"}, ["mmcv"]),
        (NVLABS | ROSINALITY | {"net.py": "import mmcv.ops\n"}, ["nvlabs", "rosinality", "mmcv"]),
        ({"net.py": "from mmcv import cnn\nfrom operator import mul\nimport optuna\nfrom .op import x\n"}, []),
        ({"text.py": 'text = """\nfrom op import upfirdn2d\n"""\n'}, []),
        ({"op/fused_act.py": "", ".hidden/net.py": "import mmcv.ops\n", "venv/net.py": "import mmcv.ops\n"}, []),
        ({}, []),
    ],
)
def test_detection(tmp_path: Path, files: dict[str, str], expected: list[str]) -> None:
    assert list(_detect.detect([write(tmp_path, files)]).shims) == expected


def test_detection_looks_at_import_lines_elsewhere_only_if_there_is_nothing_here(tmp_path: Path) -> None:
    write(tmp_path, {"a/net.py": "from op import upfirdn2d\n", "b/net.py": "import mmcv.ops\n", "c/net.py": ""} | NVLABS)
    assert list(_detect.detect([tmp_path / "a", tmp_path / "b"]).shims) == ["rosinality"]
    assert list(_detect.detect([tmp_path / "c", tmp_path / "b"]).shims) == ["mmcv"]
    assert list(_detect.detect([tmp_path / "a", tmp_path]).shims) == ["nvlabs", "rosinality"]


def test_detection_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {f"{i:03}.py": "" for i in range(40)} | {"z/net.py": "import mmcv.ops\n"})
    assert list(_detect.detect([tmp_path]).shims) == ["mmcv"]
    monkeypatch.setattr(_detect, "_FILES", 30)
    found = _detect.detect([tmp_path])
    assert found.files == 30 and not found.shims


# ---- wrong usage -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "words, message",
    [
        ([], "SCRIPT (or -m MODULE) is missing"),
        (["--report"], "SCRIPT (or -m MODULE) is missing"),
        (["--compat", "nvidia", "a.py"], "invalid choice: 'nvidia'"),
        (["--backend", "gpu", "a.py"], "invalid choice: 'gpu'"),
        (["--backends", "cpu", "a.py"], "--backends"),
        (["--compat", "auto", "--compat", "mmcv", "script.py"], "--compat auto and --compat none stand alone, got auto, mmcv"),
        (["missing.py"], "SCRIPT 'missing.py' does not exist (the working folder is "),
        (["folder"], "SCRIPT 'folder' is a folder without __main__.py"),
        (["-m", "no_such_module.train"], "there is no module named 'no_such_module'"),
    ],
)
def test_wrong_usage_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    monkeypatch.chdir(write(tmp_path, {"script.py": "", "folder/net.py": ""}))
    before = (list(sys.argv), list(sys.path), sys.modules["__main__"], list(sys.meta_path))
    with pytest.raises(SystemExit) as end:
        main(["run", *words])
    assert end.value.code == 2 and message in capsys.readouterr().err
    assert before == (sys.argv, sys.path, sys.modules["__main__"], sys.meta_path)


def test_an_unknown_codebase_gives_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(write(tmp_path, {"a/train.py": "", "a/net.py": "", "README": ""}))
    with pytest.raises(SystemExit) as end:
        main(["run", "a/train.py"])
    text = capsys.readouterr().err
    assert end.value.code == 2 and text.count("gankern run: error:") == 1
    for part in (
        f"{tmp_path / 'a'} or {tmp_path}",
        *_detect.LOOKED_FOR,
        *_detect.LOOKED_FOR.values(),
        "net.py, train.py",
        "README, a/",
    ):
        assert part in text
    assert "--compat none" in text


# ---- how the script runs, in this process ------------------------------------------------------------------------------------
@pytest.fixture
def in_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a target here, and put everything back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])

    def go(name: str, *arguments: str, module: bool = False, settings: run.Settings | None = None) -> dict[str, Any]:
        target = run.Target(name, arguments, module)
        folders, problem = run._folders(target)
        assert problem is None
        with run._path_of(target, folders), run.session(settings or run.Settings()):
            assert run._execute(target) == 0
            return vars(sys.modules["__main__"])

    before = (list(sys.argv), list(sys.path), list(sys.meta_path), set(sys.modules))
    yield go
    assert before == (sys.argv, sys.path, sys.meta_path, before[3])
    for name in set(sys.modules) - before[3]:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").is_relative_to(tmp_path):
            del sys.modules[name]


SCRIPT = """
import os, pickle, sys

class C: pass

seen = sys.argv, sys.path[0], os.getcwd(), __name__, __file__, __package__, __spec__
assert type(pickle.loads(pickle.dumps(C()))) is C
"""


def test_a_script_finds_what_python_gives_it(tmp_path: Path, in_process: Any) -> None:
    write(tmp_path, {"sub/train.py": SCRIPT + "import beside\n", "sub/beside.py": ""})
    seen = in_process("sub/train.py", "-a", "--compat")["seen"]
    folder = tmp_path / "sub"
    argv = ["sub/train.py", "-a", "--compat"]
    assert seen == (argv, str(folder), str(tmp_path), "__main__", str(folder / "train.py"), None, None)


def test_a_module_finds_what_python_gives_it(tmp_path: Path, in_process: Any) -> None:
    write(tmp_path, {"pack/__init__.py": "", "pack/__main__.py": SCRIPT + "from . import beside\n", "pack/beside.py": ""})
    argv, path, _, name, file, package, spec = in_process("pack", "1", module=True)["seen"]
    assert argv == [str(tmp_path / "pack/__main__.py"), "1"] and file == argv[0]
    assert (path, name, package, spec.name) == (str(tmp_path), "__main__", "pack", "pack.__main__")


def test_a_folder_and_a_link_run_as_under_python(tmp_path: Path, in_process: Any) -> None:
    write(tmp_path, {"folder/__main__.py": "import beside, sys\nbeside.seen = sys.argv[0]\n", "folder/beside.py": ""})
    in_process("folder")
    assert sys.modules["beside"].seen == "folder"  # type: ignore[attr-defined]
    write(tmp_path, {"real/train.py": SCRIPT, "links/.keep": ""})
    (tmp_path / "links" / "train.py").symlink_to(tmp_path / "real" / "train.py")
    assert in_process("links/train.py")["seen"][1] == str(tmp_path / "real")


def test_exceptions_and_exit_codes_pass_unchanged(tmp_path: Path, in_process: Any) -> None:
    write(tmp_path, {"a.py": "raise KeyError('mine')\n", "b.py": "import sys\nsys.exit(7)\n", "c.py": "x =\n"})
    with pytest.raises(KeyError, match="mine"):
        in_process("a.py")
    with pytest.raises(SystemExit) as end:
        in_process("b.py")
    assert end.value.code == 7
    with pytest.raises(SyntaxError):
        in_process("c.py")


def test_shims_and_backend_hold_while_the_script_runs(tmp_path: Path, in_process: Any) -> None:
    text = """
import torch
from op import fused_leaky_relu
from mmcv.ops import bias_act
from gankern._dispatch import forced_backend

y = fused_leaky_relu(torch.ones(1, 2))
forced = forced_backend()
"""
    write(tmp_path, ROSINALITY | {"train.py": text})
    names = in_process("train.py", settings=run.Settings(("rosinality", "mmcv"), "reference"))
    assert names["forced"] == "reference" and names["y"].shape == (1, 2) and names["bias_act"].__module__ == "mmcv.ops.bias_act"
    assert _dispatch.forced_backend() is None and "op" not in sys.modules and "mmcv" not in sys.modules


# ---- processes -------------------------------------------------------------------------------------------------------------
def test_report_after_an_exception(tmp_path: Path) -> None:
    script = "import atexit, sys, threading, torch\nfrom op import fused_leaky_relu\nassert 'gankern' not in sys.argv[0]\n"
    script += (
        "def work():\n    x = torch.ones(1, 2, requires_grad=True)\n    fused_leaky_relu(x, torch.zeros(2)).sum().backward()\n"
    )
    script += "thread = threading.Thread(target=work)\nthread.start()\nthread.join()\natexit.register(work)\nprint('out')\n"
    write(tmp_path, ROSINALITY | {"train.py": script + "raise KeyError('mine')\n"})
    done = command(tmp_path, "--report", "--backend", "reference", "train.py", "--report")
    assert done.returncode == 1 and done.stdout == "out\n", done
    assert f"gankern run: rosinality ({tmp_path / 'train.py'}:2: from op import)" in done.stderr
    trace, _, report = done.stderr.partition("KeyError: 'mine'\n")
    assert "train.py" in trace and "2 operators ran" in report
    table = [line.split()[:4] for line in report.splitlines()]
    assert ["bias_act", "reference", "cpu", "2"] in table and ["bias_act_backward", "reference", "cpu", "2"] in table


SPAWN = """
import sys
import torch
import torch.multiprocessing as mp
from op import fused_leaky_relu  # fails without the shim, in the worker, too

def work(rank, queue):
    from gankern._dispatch import forced_backend
    fused_leaky_relu(torch.ones(1, 2, requires_grad=True)).sum().backward()
    queue.put((fused_leaky_relu.__module__, forced_backend(), __name__, sys.argv[1:]))

if __name__ == "__main__":
    for method in sys.argv[1:]:
        queue = mp.get_context(method).SimpleQueue()
        context = mp.start_processes(work, (queue,), nprocs=1, start_method=method, join=False)
        print(method, *queue.get())
        context.join()
    sys.exit(3)
"""


def test_spawned_workers_have_the_shim(tmp_path: Path) -> None:
    write(tmp_path, ROSINALITY | {"train.py": SPAWN})
    done = command(tmp_path, "--backend", "reference", "--report", "train.py", "spawn")
    assert done.returncode == 3, done.stderr
    assert done.stdout == "spawn op.fused_act reference __mp_main__ ['spawn']\n"
    reports = [part for part in done.stderr.split("gankern in ")[1:]]
    assert len(reports) == 2 and "no operator ran" in reports[1]
    assert "(SpawnProcess-1)" in reports[0] and "bias_act_backward  reference  cpu" in reports[0]


@pytest.mark.slow
def test_workers_of_a_fork_server_have_the_shim(tmp_path: Path) -> None:
    write(tmp_path, ROSINALITY | {"train.py": SPAWN})
    done = command(tmp_path, "--compat", "rosinality", "train.py", "forkserver")
    assert done.returncode == 3, done.stderr
    assert done.stdout == "forkserver op.fused_act None __mp_main__ ['forkserver']\n"


def test_under_torchrun(tmp_path: Path) -> None:
    script = """
import torch
import torch.distributed as dist
from op import fused_leaky_relu

dist.init_process_group("gloo")
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Conv2d(3, 4, 3))
fused_leaky_relu(model(torch.full((1, 3, 132, 132), 1.0 + dist.get_rank())), torch.zeros(4)).sum().backward()
gradients = [torch.empty(4, 3, 3, 3) for _ in range(2)]
dist.all_gather(gradients, model.module.weight.grad)
assert torch.equal(*gradients)
del model  # before its group
dist.destroy_process_group()
"""
    write(tmp_path, ROSINALITY | {"train.py": script})
    launcher = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", "-m", "gankern", "run")
    done = command(tmp_path, "--report", "train.py", launcher=launcher)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("gankern run: rosinality") == 1  # of the first rank
    for rank in (0, 1):
        assert f"gankern in rank {rank}, process" in done.stderr
    assert done.stderr.count("2 operators ran") == 2
