"""``gankern run``: run a script of an existing GAN codebase, unchanged, on gankern's operators.

The script runs as ``__main__`` as under ``python``: its own ``sys.argv``, ``sys.path[0]``, working folder, exit code and
exceptions. What is installed stays until the process ends, so that threads and exit handlers of the script have it, too.
Worker processes that the script starts by :mod:`multiprocessing` ('spawn' and 'forkserver', which
``torch.multiprocessing.spawn`` uses) get the same before they import the script: it travels in the data that prepare them.
"""

from __future__ import annotations

import argparse
import atexit
import builtins
import importlib
import importlib.util
import io
import multiprocessing
import os
import runpy
import sys
import zipimport
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass
from importlib.machinery import ModuleSpec, SourceFileLoader
from multiprocessing import spawn
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from gankern import _dispatch, _usage
from gankern.compat import _detect

SHIMS = ("nvlabs", "rosinality", "mmcv")
_HELP = """\
what --compat auto looks for, in the script's folder and in the working folder (several may hold):
  nvlabs      a folder torch_utils/ops (stylegan2-ada-pytorch, stylegan3, StyleGAN-XL, StyleGAN-T, EG3D, R3GAN, ...)
  rosinality  a package with fused_act.py and upfirdn2d.py, or files that say 'from op import' (stylegan2-pytorch, ...)
  mmcv        files that import mmcv.ops (MMagic, MMGeneration, ...)

examples:
  gankern run --report train.py --outdir=runs --cfg=stylegan2
  torchrun --nproc-per-node 2 -m gankern run train.py --batch 16
  gankern run --compat rosinality -m projects.train
"""


@dataclass(frozen=True)
class Settings:
    """What a process gets before the script runs in it.

    Attributes:
        shims: of :data:`SHIMS`, those to install.
        backend: for ``use_backend``, or None.
        report: print at exit which operators ran.
    """

    shims: tuple[str, ...] = ()
    backend: str | None = None
    report: bool = False


@dataclass(frozen=True)
class Target:
    """What to run: ``name`` is a path (a file, a folder or an archive with ``__main__.py``) or, with ``module``, a module."""

    name: str
    arguments: tuple[str, ...]
    module: bool


def main(argv: Sequence[str] | None = None) -> int:
    """``gankern run [--compat NAME] [--backend NAME] [--report] SCRIPT|-m MODULE [ARGS...]``.

    Args:
        argv: the words after ``gankern run``. Default None: of this process.

    Returns:
        0 when the script ends, 2 for wrong usage. What the script raises, ``SystemExit`` included, is raised.
    """
    parser = _parser()
    options, words, module = _split(list(sys.argv[2:] if argv is None else argv))
    given = parser.parse_args(options)
    if not words:
        parser.error("SCRIPT (or -m MODULE) is missing: nothing to run")
    target = Target(words[0], tuple(words[1:]), module)
    folders, problem = _folders(target)
    if problem:
        parser.error(problem)
    shims = tuple(dict.fromkeys(given.compat or ["auto"]))
    if len(shims) > 1 and {"auto", "none"} & set(shims):
        parser.error(f"--compat auto and --compat none stand alone, got {', '.join(shims)}")
    if shims == ("auto",):
        found = _detect.detect(folders)
        if not found.shims:
            parser.error(found.message())
        shims = tuple(found.shims)
        _say("; ".join(f"{name} ({why})" for name, why in found.shims.items()))
    settings = Settings(() if shims == ("none",) else shims, given.backend, given.report)
    try:
        _keep(_path_of(target, folders), session(settings))
    except ValueError as error:
        parser.error(str(error))
    return _execute(target)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gankern run",
        usage="gankern run [--compat NAME] [--backend NAME] [--report] SCRIPT|-m MODULE [ARGS...]",
        description="Run a script of an existing GAN codebase, unchanged, on gankern's operators.",
        epilog=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--compat",
        action="append",
        choices=("auto", *SHIMS, "none"),
        metavar="NAME",
        help="whose operators to stand in for: auto (default), nvlabs, rosinality, mmcv (may be given more than once), or none "
        "(for scripts that import gankern)",
    )
    parser.add_argument(
        "--backend",
        choices=_dispatch.BACKENDS,
        metavar="NAME",
        help=f"force one implementation, as gankern.use_backend: {', '.join(_dispatch.BACKENDS)}",
    )
    parser.add_argument("--report", action="store_true", help="print at exit which operators ran where, how often, how long")
    return parser


def _split(words: list[str]) -> tuple[list[str], list[str], bool]:
    """(our options, script or module and its arguments, whether it is a module)."""
    i = 0
    while i < len(words):
        word = words[i]
        if word == "--":
            return words[:i], words[i + 1 :], False
        if word == "-m":
            return words[:i], words[i + 1 :], True
        if not word.startswith("-") or word == "-":
            break
        i += 2 if word in ("--compat", "--backend") else 1
    return words[:i], words[i:], False


def _folders(target: Target) -> tuple[list[Path], str | None]:
    """Where the target's codebase is, the place for ``sys.path[0]`` first; or what is wrong with the target."""
    here = Path.cwd()
    if target.module:
        top = target.name.partition(".")[0]
        sys.path.insert(0, str(here))
        try:
            spec = importlib.util.find_spec(top)
        except (ImportError, ValueError):
            spec = None
        finally:
            sys.path.remove(str(here))
        if spec is None:
            return [], f"-m {target.name}: there is no module named {top!r} in {here} or elsewhere on sys.path"
        places = [Path(place) for place in spec.submodule_search_locations or ()]
        if spec.origin and spec.has_location:
            places.append(Path(spec.origin).parent)
        return list(dict.fromkeys([here, *places])), None
    path = Path(target.name)
    if not path.exists():
        return [], f"SCRIPT {target.name!r} does not exist (the working folder is {here})"
    if path.is_dir() and not (path / "__main__.py").is_file():
        return [], f"SCRIPT {target.name!r} is a folder without __main__.py"
    home = path.resolve() if path.is_dir() else path.resolve().parent
    return list(dict.fromkeys([home, here])), None


@contextmanager
def _path_of(target: Target, folders: Sequence[Path]) -> Iterator[None]:
    """``sys.path`` and ``sys.argv`` as the script would find them under ``python``."""
    argv, path = sys.argv, list(sys.path)
    sys.argv = [target.name, *target.arguments]
    if not getattr(sys.flags, "safe_path", False) and not sys.flags.isolated:
        # Ours is the folder of the command, or of -m: the script must not see it. runpy adds a folder or archive itself.
        sys.path[:1] = [str(folders[0])] if target.module or _is_source(target) else []
    try:
        yield
    finally:
        sys.argv = argv
        sys.path[:] = path


def _is_source(target: Target) -> bool:
    """Whether the script is a file of Python source, not a folder or archive."""
    if not Path(target.name).is_file():
        return False
    try:
        zipimport.zipimporter(target.name)
    except zipimport.ZipImportError:
        return True
    return False


def _execute(target: Target) -> int:
    """Run it as ``__main__``; gives 0, or 2 if there is no such module."""
    # Not by runpy where it can be helped: its module goes when the script ends, before the script's exit handlers run.
    if target.module:
        spec = _spec(target.name)
        code = None if spec is None or spec.loader is None else spec.loader.get_code(spec.name)  # type: ignore[attr-defined]
        if spec is None or code is None:
            print(f"gankern run: error: -m {target.name}: there is no such module, or it cannot be run", file=sys.stderr)
            return 2
        sys.argv[0] = spec.origin or target.name
        _run(code, __file__=spec.origin, __loader__=spec.loader, __spec__=spec, __package__=spec.parent, __cached__=spec.cached)
    elif _is_source(target):
        path = os.path.abspath(target.name)
        with io.open_code(path) as file:
            code = compile(file.read(), path, "exec", dont_inherit=True)
        _run(
            code, __file__=path, __loader__=SourceFileLoader("__main__", path), __spec__=None, __package__=None, __cached__=None
        )
    else:
        runpy.run_path(target.name, run_name="__main__")
    return 0


def _spec(name: str) -> ModuleSpec | None:
    """Of a module, or of the ``__main__`` of a package. Imports the packages around it."""
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            return None
        raise
    if spec is not None and spec.submodule_search_locations is not None and not name.endswith("__main__"):
        return _spec(f"{name}.__main__")
    return spec


def _run(code: CodeType, **attributes: Any) -> None:
    module = ModuleType("__main__")
    vars(module).update(__builtins__=builtins, **attributes)
    sys.modules["__main__"] = module
    exec(code, vars(module))


def _say(text: str) -> None:
    """To the user, once for all processes of a job."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(f"gankern run: {text}", file=sys.stderr, flush=True)


# ---- what a process gets ---------------------------------------------------------------------------------------------------
@contextmanager
def session(settings: Settings) -> Iterator[None]:
    """Scope in which the shims are installed and the backend is forced, in this process and those that it spawns.

    Args:
        settings: what to install. Its report is printed at exit of the process, not of the scope.

    Raises:
        ValueError: a shim cannot be installed, or the backend is unknown.
    """
    with ExitStack() as stack:
        if settings.report:
            usage = _usage.Usage()
            _usage.start(usage)
            stack.callback(_usage.stop, usage)
            atexit.register(_print_report, usage, os.getpid(), multiprocessing.parent_process() is not None)
        if settings.backend is not None:
            stack.enter_context(_dispatch.use_backend(settings.backend))
        for name in settings.shims:
            shim = importlib.import_module(f"gankern.compat.{name}")
            stack.enter_context(shim.installed())
        stack.enter_context(_handed_on(settings))
        yield


def _print_report(usage: _usage.Usage, process: int, child: bool) -> None:
    if os.getpid() != process or (child and not usage.entries()):
        return  # forked from the one that recorded, or a helper process that has nothing to tell
    rank = f"rank {os.environ['RANK']}, " if "RANK" in os.environ else ""
    name = multiprocessing.current_process().name
    where = f"{rank}process {process}" + ("" if name == "MainProcess" else f" ({name})")
    # One write: the reports of several processes must not mix.
    sys.stderr.write(usage.text(where))
    sys.stderr.flush()


class _Bootstrap:
    """Put into a worker process's preparation data: unpickling it, the first thing that a worker does, starts a session."""

    def __init__(self, settings: Settings, path: Sequence[str]) -> None:
        self._given = (asdict(settings), list(path))

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _bootstrap, self._given


_kept = ExitStack()


def _keep(*scopes: AbstractContextManager[None]) -> None:
    """Enter scopes that end with the process: after its threads, and after the exit handlers that are registered later."""
    with ExitStack() as stack:
        atexit.register(_kept.close)
        for scope in scopes:
            stack.enter_context(scope)
        _kept.push(stack.pop_all())


def _bootstrap(settings: dict[str, Any], path: list[str]) -> None:
    sys.path[:] = path  # as prepare() will set it: shims look there for the codebase
    _keep(session(Settings(**{**settings, "shims": tuple(settings["shims"])})))


@contextmanager
def _handed_on(settings: Settings) -> Iterator[None]:
    """Scope whose spawned processes get the settings, too."""
    plain = spawn.get_preparation_data

    def get_preparation_data(name: str) -> dict[str, Any]:
        data = plain(name)
        data["gankern"] = _Bootstrap(settings, data.get("sys_path", sys.path))
        return data

    spawn.get_preparation_data = get_preparation_data
    try:
        yield
    finally:
        if spawn.get_preparation_data is get_preparation_data:
            spawn.get_preparation_data = plain


__all__ = ["Settings", "Target", "main", "session"]
