"""Existing GAN codebases, their own networks on their own operators, beside the same networks on gankern.

``python -m benchmarks.peers --tree CHECKOUT --codebase stylegan2-ada|stylegan3|r3gan|rosinality [--model M] [--batch N]
[--threads N] [--phases P,...] [--rounds N] [--out FILE.json]`` builds generator and discriminator from a checkout of yours with
random weights, and measures each phase in one process, by turns: as the codebase is (on the CPU it falls back to its reference
operators), inside the scope of gankern's shim, and its convolutions alone.

- ``forward``: images of latents, evaluation mode, no gradients;
- ``generator_step``: forward and backward through the generator, gradients of all its parameters;
- ``path_length``: path length regularisation: forward, gradient in the latents, backward through that;
- ``r1_step``: the discriminator's loss of real images with R1: forward, gradient in the images, backward through both;
- ``training_step`` (R3GAN): its own trainer's generator step, then its discriminator step with R1 and R2.

The first run of each side is not timed: it compares images and gradients, which must agree (2e-3 of the norm in float32), and
makes sure that gankern's operators ran on one side and on the other none. ``ceiling`` is the codebase's time over that of the
convolutions it calls, each alone: what remained if everything else cost nothing. The filters of its reference resampling, which
are depthwise convolutions, do not count. gankern may pass it where it needs fewer convolutions (second-order weight gradients).

``python -m benchmarks.peers --docs [--check]`` writes the table of docs/compat.md from ``benchmarks/results/*/peers-*.json``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.peer_codebases import CODEBASES, Codebase, Model, Networks, networks_of
from gankern import _usage
from gankern._files import write_json
from gankern.bench import machine
from gankern.bench.common import BenchError, seconds, times
from gankern.bench.convolutions import Convolutions
from gankern.bench.pages import write_section
from gankern.bench.timing import Stats, no_garbage_collection

ROOT = Path(__file__).resolve().parent.parent
FORMAT = "gankern-peers 1"
TOLERANCE = 2e-3
"""Largest difference of a gradient or image, relative to its norm (or to 1/1000 of all gradients', where that is more)."""
SLOW = 20.0
"""Seconds from which on a side runs in two rounds only."""
SIDES = ("own", "ours", "convolutions")
BEGIN, END = "<!-- table: python -m benchmarks.peers --docs -->", "<!-- end of table -->"

Results = dict[str, Tensor]


# ---- phases ------------------------------------------------------------------------------------------------------------
def _gradients(network: nn.Module, loss: Tensor) -> Results:
    names, parameters = zip(*network.named_parameters(), strict=True)
    grads = torch.autograd.grad(loss, parameters, allow_unused=True)
    zeros = (torch.zeros_like(p) if g is None else g for g, p in zip(grads, parameters, strict=True))
    return dict(zip(names, zeros, strict=True))


class Phases:
    """The phases of one codebase's networks, with the same numbers at every call."""

    def __init__(self, nets: Networks, batch: int) -> None:
        self.nets = nets
        torch.manual_seed(1)
        size = (batch, 3, nets.resolution, nets.resolution)
        self.z, self.real = torch.randn(batch, nets.z_dim), torch.randn(size)
        self.direction = torch.randn(size) / nets.resolution

    def run(self, phase: str) -> Results:
        """Images and gradients, by name."""
        for network in (self.nets.generator, self.nets.discriminator):
            network.train(phase != "forward").requires_grad_(True)
        torch.manual_seed(2)
        results: Results = getattr(self, phase)()
        return results

    def forward(self) -> Results:
        """Images, evaluation mode, no gradients."""
        with torch.no_grad():
            return {"images": self.nets.images(self.nets.latents(self.z))}

    def generator_step(self) -> Results:
        """Gradients of the generator."""
        images = self.nets.images(self.nets.latents(self.z))
        return {"images": images.detach(), **_gradients(self.nets.generator, (images * self.direction).sum())}

    def path_length(self) -> Results:
        """Gradients of path length regularisation."""
        ws = self.nets.latents(self.z)
        images = self.nets.images(ws)
        with self.nets.no_weight_gradients():
            (slope,) = torch.autograd.grad((images * self.direction).sum(), ws, create_graph=True)
        lengths = slope.square().sum(2).mean(1).sqrt()
        return {"lengths": lengths.detach(), **_gradients(self.nets.generator, lengths.square().mean())}

    def r1_step(self) -> Results:
        """Gradients of the discriminator's loss of real images with R1."""
        real = self.real.clone().requires_grad_()
        logits = self.nets.logits(real)
        with self.nets.no_weight_gradients():
            (slope,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
        penalty = slope.square().sum((1, 2, 3))
        loss = torch.nn.functional.softplus(-logits).mean() + 5 * penalty.mean()
        return {"penalty": penalty.detach(), **_gradients(self.nets.discriminator, loss)}

    def training_step(self) -> Results:
        """R3GAN's own steps of generator and discriminator."""
        generator, discriminator = self.nets.generator, self.nets.discriminator
        trainer = self.nets.trainer(generator, discriminator)
        found: Results = {}
        for name, network in (("generator", generator), ("discriminator", discriminator)):
            generator.requires_grad_(network is generator)
            discriminator.requires_grad_(network is discriminator)
            if network is generator:
                trainer.AccumulateGeneratorGradients(self.z, self.real, None)
            else:
                trainer.AccumulateDiscriminatorGradients(self.z, self.real, None, 1.0)
            for key, parameter in network.named_parameters():
                found[f"{name}.{key}"] = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                parameter.grad = None
        return found


def _gathered(results: Results) -> Results:
    single = {name: t for name, t in results.items() if t.numel() == 1}
    rest = {name: t for name, t in results.items() if t.numel() > 1}
    return {**rest, "single numbers": torch.stack([t.reshape(()) for t in single.values()])} if single else rest


def difference(ours: Results, own: Results) -> tuple[float, str]:
    """The largest relative difference of a result, and its name; infinite where there are NaN.

    Single numbers (noise strengths) count as one vector: each is a sum over all pixels, and some happen to be nearly zero.
    """
    ours, own = _gathered(ours), _gathered(own)
    whole = sum(float(t.double().square().sum()) for t in own.values()) ** 0.5
    worst = (0.0, "")
    for name, want in own.items():
        norm = max(float(want.double().norm()), 1e-3 * whole, 1e-30)
        apart = float((ours[name].double() - want.double()).norm()) / norm
        if not apart <= worst[0]:
            worst = (apart if apart == apart else float("inf"), name)
    return worst


# ---- measuring ---------------------------------------------------------------------------------------------------------
@contextmanager
def _quiet() -> Iterator[None]:
    """Without the codebases' warnings about the version of PyTorch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def measure(phases: Phases, phase: str, shim: Callable[[], AbstractContextManager[None]], rounds: int) -> dict[str, Any]:
    """Compare both sides once, then time them and the convolutions by turns.

    Raises:
        BenchError: gankern's operators ran on the wrong side.
    """
    recorder = Convolutions()
    first: dict[str, float] = {}
    results: dict[str, Results] = {}
    usage: dict[str, dict[str, int]] = {}
    scopes: dict[str, Callable[[], AbstractContextManager[Any]]] = {"own": nullcontext, "ours": shim}
    for side, scope in scopes.items():
        with scope(), _usage.recording() as ran, recorder if side == "own" else nullcontext():
            start = time.perf_counter()
            results[side] = phases.run(phase)
            first[side] = time.perf_counter() - start
        counts: dict[str, int] = {}
        for entry in ran.entries():
            counts[f"{entry.op} ({entry.backend})"] = counts.get(f"{entry.op} ({entry.backend})", 0) + entry.calls
        usage[side] = counts
    if usage["own"] or not usage["ours"]:
        what = f"gankern ran in the codebase's own {phase}" if usage["own"] else f"no operator of gankern ran in {phase}"
        raise BenchError(f"{what}: the shim does not fit this checkout")
    apart, where = difference(results["ours"], results["own"])
    del results
    taken: dict[str, list[float]] = {side: [] for side in SIDES}
    with no_garbage_collection():
        for turn in range(rounds):
            for place in range(len(SIDES)):
                side = SIDES[(place + turn) % len(SIDES)]
                if first.get(side, 0.0) > SLOW and len(taken[side]) >= 2:
                    continue
                if side == "convolutions":
                    taken[side].append(recorder.seconds())
                    continue
                with scopes[side]():
                    start = time.perf_counter()
                    kept = phases.run(phase)
                    taken[side].append(time.perf_counter() - start)
                    del kept
    stats = {side: Stats.of(values) for side, values in taken.items()}
    own = stats["own"].median
    return {
        "phase": phase,
        "times": {side: {"median": s.median, "q1": s.q1, "q3": s.q3, "rounds": s.rounds} for side, s in stats.items()},
        "ratio": own / stats["ours"].median,
        "ceiling": own / stats["convolutions"].median if recorder.calls else None,
        "convolutions": sum(recorder.calls.values()),
        "difference": apart if apart < float("inf") else None,
        "differs_most": where,
        "agrees": apart <= TOLERANCE,
        "operators": usage["ours"],
    }


def tree_facts(tree: Path, commit: str | None) -> dict[str, Any]:
    """Commit of a checkout (as given, or as git says), and a digest of its Python files."""

    def git(*arguments: str) -> str | None:
        done = subprocess.run(["git", "-C", str(tree), *arguments], capture_output=True, text=True, timeout=20, check=False)
        return done.stdout.strip() if done.returncode == 0 else None

    if commit is None:
        try:
            top = git("rev-parse", "--show-toplevel")
            commit = git("rev-parse", "HEAD") if top is not None and Path(top).resolve() == tree.resolve() else None
        except (OSError, subprocess.TimeoutExpired):
            commit = None
    digest = hashlib.sha256()
    for path in sorted(tree.rglob("*.py")):
        digest.update(path.relative_to(tree).as_posix().encode() + b"\0" + path.read_bytes())
    return {"commit": commit, "sha256_of_python_files": digest.hexdigest()}


# ---- tables ------------------------------------------------------------------------------------------------------------
COLUMNS = ("phase", "own", "gankern", "faster", "goal", "ceiling", "difference")


def cells(row: Mapping[str, Any], goals: Mapping[str, float]) -> tuple[str, ...]:
    """One phase in the order of :data:`COLUMNS`."""
    goal = goals.get(row["phase"])
    text = "-" if goal is None else f"{goal:g}x {'met' if row['ratio'] >= goal else 'MISSED'}"
    apart = "not finite" if row["difference"] is None else f"{row['difference']:.0e}"
    return (
        row["phase"].replace("_", " "),
        seconds(row["times"]["own"]["median"]),
        seconds(row["times"]["ours"]["median"]),
        times(row["ratio"]),
        text,
        times(row["ceiling"]),
        apart if row["agrees"] else f"{apart} DIFFERS ({row['differs_most']})",
    )


def table(data: Mapping[str, Any]) -> str:
    """The table of a result, for the terminal."""
    rows = [COLUMNS, *(cells(row, data["goals"]) for row in data["phases"])]
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def section(files: Sequence[Path]) -> str:
    """The part of docs/compat.md between its marks: a table for each result file."""
    parts = [BEGIN]
    for path in files:
        data = json.loads(path.read_text(encoding="utf-8"))
        facts, tree = data["machine"], data["tree"]
        at = f"commit {tree['commit'][:10]}" if tree["commit"] else f"sha256 {tree['sha256_of_python_files'][:10]}"
        parts += ["", f"{data['title']} ({at}), {data['model']}, batch {data['batch']}, float32; {facts['device']}, "]
        parts[-1] += f"{facts['threads']} threads, torch {facts['versions']['torch']}, gankern {facts['versions']['gankern']}, "
        parts[-1] += f"commit {(facts['commit'] or 'unknown')[:10]}:"
        parts += ["", "| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
        parts += ["| " + " | ".join(cells(row, data["goals"])) + " |" for row in data["phases"]]
    return "\n".join([*parts, "", END])


def write_docs(path: Path, files: Sequence[Path], check: bool) -> int:
    """Put the tables between the marks of a page, or with ``check`` say whether they stand there."""
    return write_section(path, BEGIN, END, section(files), check)


# ---- command line ------------------------------------------------------------------------------------------------------
def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers", description="GAN codebases as they are, and on gankern."
    )
    parser.add_argument("--tree", type=Path, metavar="PATH", help="folder of a checkout of the codebase")
    parser.add_argument("--codebase", choices=sorted(CODEBASES))
    parser.add_argument("--model", help="size of the networks (default: the first): " + "; ".join(
        f"{name}: {', '.join(codebase.models)}" for name, codebase in CODEBASES.items()
    ))  # fmt: skip
    parser.add_argument("--batch", type=int, help="images (default: the model's)")
    parser.add_argument("--threads", type=int, help="threads of PyTorch (default: as it comes)")
    parser.add_argument("--phases", help="only these, separated by commas")
    parser.add_argument("--rounds", type=int, default=5, help="timed runs of each side (default 5; 2 of those beyond 20 s)")
    parser.add_argument("--commit", help="commit of the tree, where it is not a git checkout")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="keep the results; written after every phase")
    parser.add_argument("--goals", action="store_true", help="exit with 1 where a goal is missed")
    parser.add_argument("--docs", action="store_true", help="write the tables of docs/compat.md from the committed results")
    parser.add_argument("--check", action="store_true", help="with --docs: only say whether they are up to date")
    return parser


def _chosen(options: argparse.Namespace) -> tuple[Codebase, str, Model, list[str]]:
    """The codebase, its model and the phases.

    Raises:
        BenchError: an option is missing or has a value that does not exist.
    """
    for name in ("tree", "codebase"):
        if getattr(options, name) is None:
            raise BenchError(f"--{name} must be given")
    codebase = CODEBASES[options.codebase]
    model = options.model or next(iter(codebase.models))
    if model not in codebase.models:
        raise BenchError(f"--model must be one of {', '.join(codebase.models)} for {options.codebase}, got {model!r}")
    phases = list(codebase.phases) if options.phases is None else options.phases.split(",")
    for phase in phases:
        if phase not in codebase.phases:
            raise BenchError(f"--phases must be of {', '.join(codebase.phases)} for {options.codebase}, got {phase!r}")
    for name in ("batch", "threads", "rounds"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise BenchError(f"--{name} must be at least 1, got {value}")
    if not options.tree.is_dir():
        raise BenchError(f"--tree {options.tree}: no such folder")
    return codebase, model, codebase.models[model], phases


def _command(argv: Sequence[str]) -> str:
    """The command as it can be repeated elsewhere: paths are the user's own."""
    shown, hide = [], ""
    for word in argv:
        option, _, value = word.partition("=")
        path = {"--tree": "CHECKOUT", "--out": "FILE.json"}.get(option)
        shown.append(hide or (f"{option}={path}" if path and value else word))
        hide = path if path and not value else ""
    return " ".join(["python -m benchmarks.peers", *shown])


def run(options: argparse.Namespace, argv: Sequence[str]) -> int:
    """Measure, print and keep."""
    codebase, name, model, phases = _chosen(options)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    batch = options.batch or model.batch
    data: dict[str, Any] = {
        "format": FORMAT, "complete": False, "codebase": options.codebase, "title": codebase.title, "model": name,
        "settings": dict(model.settings), "batch": batch, "dtype": "float32", "goals": dict(model.goals),
        "command": _command(argv), "tree": tree_facts(options.tree, options.commit),
        "machine": machine.facts(torch.device("cpu")), "phases": [],
    }  # fmt: skip
    with networks_of(codebase, options.tree.resolve(), model.settings) as nets, _quiet():
        runner = Phases(nets, batch)
        for phase in phases:
            data["phases"].append(measure(runner, phase, codebase.shim, options.rounds))
            print(f"{phase}: {times(data['phases'][-1]['ratio'])}", file=sys.stderr, flush=True)
            data["complete"] = phase == phases[-1]
            if options.out is not None:
                write_json(options.out, data)
    facts = data["machine"]
    print(f"{codebase.title}, {name}, batch {batch}, float32; {facts['device']}, {facts['threads']} threads, ", end="")
    print(f"kernels {facts['cpu_level'] or 'none'}, torch {facts['versions']['torch']}\n\n{table(data)}")
    missed = [row for row in data["phases"] if row["ratio"] < model.goals.get(row["phase"], 0)]
    differing = [row for row in data["phases"] if not row["agrees"]]
    return int(bool(differing) or (options.goals and bool(missed)))


def main(argv: Sequence[str] | None = None) -> int:
    """0; 1 where results differ (or a goal is missed, with --goals); 2 for bad arguments."""
    argv = list(sys.argv[1:] if argv is None else argv)
    options = _parser().parse_args(argv)
    try:
        if options.docs:
            files = sorted((ROOT / "benchmarks" / "results").glob("*/peers-*.json"))
            return write_docs(ROOT / "docs" / "compat.md", files, options.check)
        return run(options, argv)
    except (BenchError, OSError) as error:
        print(f"benchmarks.peers: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
