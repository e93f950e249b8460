"""The command ``gankern bench``: measure, report, compare."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from gankern.bench import compare, machine, performance, plots, report, rows, scaling, session, table
from gankern.bench.common import BenchError
from gankern.bench.results import load


def parser() -> argparse.ArgumentParser:
    """The arguments of ``gankern bench``."""
    made = argparse.ArgumentParser(
        prog="gankern bench",
        description="Measure gankern's kernels against eager PyTorch, torch.compile and a copy, in one run.",
        epilog="exit codes: 0 done, 1 a goal was missed, a result was wrong or a row regressed, 2 bad input",
    )
    mode = made.add_mutually_exclusive_group()
    mode.add_argument("--quick", action="store_true", help="a few rows per op, under 5 minutes on 2 CPU cores (default)")
    mode.add_argument("--smoke", action="store_true", help="the quick rows once each: that they work, not how fast")
    mode.add_argument("--full", action="store_true", help="all samples, dtypes, layouts and directions: the record")
    mode.add_argument("--goals-only", action="store_true", help="the rows of --full that have a goal, in fewer rounds")
    made.add_argument(
        "--scaling",
        action="store_true",
        help="cost against batch, resolution, channels, taps, threads; memory; import time (with --smoke: a few sizes, once)",
    )
    made.add_argument("--goals", action="store_true", help="exit with 1 if a goal is missed")
    made.add_argument("--op", action="append", metavar="NAME", help="only this op (may be given several times)")
    made.add_argument("--device", metavar="cpu|cuda", help="default: cuda where there is a GPU")
    made.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: PyTorch's own)")
    made.add_argument(
        "--out",
        type=Path,
        metavar="DIR|FILE",
        help="where results go (default: benchmarks/results/latest in a checkout, else gankern-bench); for --report the page",
    )
    made.add_argument(
        "--report",
        nargs="*",
        type=Path,
        metavar="FILE_OR_DIR",
        help="write one page from result files, with --out; without any, docs/performance.md from the committed ones",
    )
    made.add_argument("--check", action="store_true", help="with --report alone: exit with 1 if the page is not up to date")
    made.add_argument(
        "--compare", nargs=2, type=Path, metavar=("OLD.json", "NEW.json"), help="compare two result files row by row"
    )
    made.add_argument("--by", choices=compare.METRICS, default="time", help="what --compare looks at (default: time)")
    made.add_argument(
        "--tolerance", type=float, default=0.05, metavar="SHARE", help="smallest change that --compare counts (default: 0.05)"
    )
    made.add_argument(
        "--fail-on-regression", action="store_true", help="with --compare: exit with 1 if a row is slower beyond noise"
    )
    return made


def run_of(smoke: bool, full: bool, goals_only: bool) -> str:
    """The run (``rows.RUNS``) that the options mean."""
    return "goals" if goals_only else "smoke" if smoke else "full" if full else "quick"


def default_folder() -> Path:
    """Results of a run that names no folder: the git-ignored one of a checkout, else one in the current folder."""
    results = machine.ROOT / "benchmarks"
    return results / "results" / "latest" if results.is_dir() else Path("gankern-bench")


def run(argv: Sequence[str] | None = None) -> int:
    """Run the command; see the module's and the parser's texts."""
    arguments = parser().parse_args(argv)
    try:
        if arguments.check and arguments.report != []:
            raise BenchError("--check goes with --report without files")
        if arguments.report is not None:
            return _report(arguments) if arguments.report else _page(arguments)
        if arguments.compare:
            return _compare(arguments)
        return _measure(arguments)
    except BenchError as error:
        print(f"gankern bench: {error}", file=sys.stderr)
        return 2


def _report(arguments: argparse.Namespace) -> int:
    if arguments.out is None:
        raise BenchError("--report needs --out PAGE.html or --out PAGE.md")
    files = report.build(arguments.report, arguments.out)
    print(f"{arguments.out}: {len(files)} result file{'s' if len(files) != 1 else ''}")
    if not plots.available():
        print(plots.MISSING)
    return 0


def _page(arguments: argparse.Namespace) -> int:
    if arguments.out is not None:
        raise BenchError("--report --out PAGE needs the result files; without them it writes docs/performance.md")
    done = performance.write(check=arguments.check)
    if not arguments.check:
        print(f"docs/performance.md: written, with {len(done) - 1} plots")
        return 0
    print("docs/performance.md agrees with the results" if not done else f"not as the results say: {', '.join(done)}")
    return int(bool(done))


def _scaling(arguments: argparse.Namespace, mode: str, device: torch.device, folder: Path) -> int:
    if arguments.op or arguments.goals:
        raise BenchError("--scaling measures what it measures: without --op and --goals")
    scaling.run(folder / "scaling.json", mode, device)
    print(f"written: {folder / 'scaling.json'}")
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    old, new = map(load, arguments.compare)
    changes = compare.compare(old, new, arguments.by, arguments.tolerance)
    print(compare.text(changes, old, new, arguments.by))
    return int(arguments.fail_on_regression and any(change.verdict == "slower" for change in changes))


def _measure(arguments: argparse.Namespace) -> int:
    mode = run_of(arguments.smoke, arguments.full, arguments.goals_only)
    if arguments.threads is not None:
        if arguments.threads < 1:
            raise BenchError(f"--threads must be at least 1, got {arguments.threads}")
        torch.set_num_threads(arguments.threads)
    device = machine.device(arguments.device)
    folder = arguments.out or default_folder()
    if folder.exists() and not folder.is_dir():
        raise BenchError(f"--out {folder}: is a file, results need a folder")
    if arguments.scaling:
        return _scaling(arguments, "quick" if arguments.smoke else "full", device, folder)
    planned = rows.plan(mode, device, arguments.op)
    if not planned:
        raise BenchError(f"no {mode} rows for {', '.join(arguments.op or ['any op'])} on {device.type}")
    bench = session.Session(mode, device, folder, len(planned))
    print(table.machine_line(bench.machine), flush=True)
    failures, code = [], 0
    try:
        for number, row in enumerate(planned, 1):
            try:
                result = bench.measure(row)
            except Exception:
                result = bench.results.rows[-1]
                failures.append(f"{row.key}: {result['note']}")
            else:
                if result["status"] == "wrong":
                    failures.append(f"{row.key}: {result['note']}")
                if arguments.goals:
                    failures += [f"{row.key}: {line}" for line in session.missed(result)]
            print(session.progress(result, number, len(planned)), flush=True)
    except KeyboardInterrupt:
        code = 130
        print("interrupted; what was measured is kept", file=sys.stderr)
    complete = len(bench.results.rows) == len(planned)
    for line in closing(bench, complete):
        print(line)
    for line in failures:
        print(f"FAILED {line}", file=sys.stderr)
    return code or int(bool(failures))


def closing(bench: session.Session, complete: bool, drawn: bool = True) -> list[str]:
    """Save the file and, if they are to be ``drawn``, the plots; the table and where everything was written."""
    bench.results.finish(complete)
    drawn = drawn and bool(bench.results.rows)
    files, note = plots.write(bench.results.data, bench.results.path.parent) if drawn else ([], None)
    lines = ["", table.text(bench.results.rows), "", table.machine_line(bench.machine)]
    lines.append("written: " + ", ".join(str(path) for path in (bench.results.path, *files)))
    return [*lines, *([note] if note else [])]
