"""Options, rows as test parameters, progress lines, and the table at the end of ``pytest benchmarks/``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from gankern.bench import cli, machine, rows, table
from gankern.bench.common import BenchError
from gankern.bench.session import Session, progress

SESSION = pytest.StashKey[Session]()
PLANNED = pytest.StashKey[list[rows.Row]]()
SELECTED = pytest.StashKey[list[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of this folder."""
    group = parser.getgroup("gankern", "gankern benchmarks")
    group.addoption("--quick", action="store_true", help="a few rows per op, under 5 minutes on 2 CPU cores (default)")
    group.addoption("--smoke", action="store_true", help="the quick rows once each: that they work, not how fast")
    group.addoption("--full", action="store_true", help="all samples, dtypes, layouts and directions: the record")
    group.addoption("--goals-only", action="store_true", help="of --full the rows that have a goal, in fewer rounds")
    group.addoption("--goals", action="store_true", help="a missed goal fails its row (otherwise goals are only reported)")
    group.addoption("--results", metavar="DIR", help="folder of the results (default: benchmarks/results/latest)")
    group.addoption("--record", action="store_true", help="write to the committed folder benchmarks/results/<device>")
    group.addoption("--bench-device", metavar="cpu|cuda", help="default: cuda where there is a GPU")
    group.addoption("--bench-threads", type=int, metavar="N", help="CPU threads (default: PyTorch's own)")


def pytest_configure(config: pytest.Config) -> None:
    """Check the options; leave the table to us."""
    if not config.pluginmanager.hasplugin("benchmark"):
        raise pytest.UsageError("benchmarks need pytest-benchmark: pip install -e '.[bench]'")
    given = [name for name in ("--quick", "--smoke", "--full") if config.getoption(name, False)]
    if len(given) > 1:
        raise pytest.UsageError(f"{' and '.join(given)} exclude each other")
    if config.getoption("--goals-only", False) and given not in ([], ["--full"]):
        raise pytest.UsageError(f"--goals-only is about the rows of --full, not of {given[0]}")
    if config.getoption("--record", False) and config.getoption("--results", None):
        raise pytest.UsageError("--record and --results exclude each other: both say where results go")
    threads = config.getoption("--bench-threads", None)
    if threads is not None:
        if threads < 1:
            raise pytest.UsageError(f"--bench-threads must be at least 1, got {threads}")
        torch.set_num_threads(threads)
    _device(config)  # an unknown device is an error of usage, not of a test
    # One table at the end, ours. pytest-benchmark's own statistics stay available to --benchmark-json and --benchmark-verbose.
    config.option.benchmark_quiet = True
    # torch.compile's own imports; nothing that a reader of a benchmark could act on.
    config.addinivalue_line("filterwarnings", "ignore:.*torch.jit.*:DeprecationWarning")


def _mode(config: pytest.Config) -> str:
    return cli.run_of(*(config.getoption(name, False) for name in ("--smoke", "--full", "--goals-only")))


def _device(config: pytest.Config) -> torch.device:
    try:
        return machine.device(config.getoption("--bench-device", None))
    except BenchError as error:
        raise pytest.UsageError(str(error)) from error


def _folder(config: pytest.Config, device: torch.device) -> Path:
    results = Path(__file__).parent / "results"
    if config.getoption("--results", None):
        return Path(config.getoption("--results"))
    return results / (machine.facts(device)["slug"] if config.getoption("--record", False) else "latest")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every row is a case of the test that asks for one."""
    if "row" in metafunc.fixturenames:
        config = metafunc.config
        planned = rows.plan(_mode(config), _device(config))
        config.stash[PLANNED] = planned
        metafunc.parametrize("row", planned, ids=[row.key for row in planned])


def pytest_collection_finish(session: pytest.Session) -> None:
    """Remember which rows are left after -k and the like."""
    session.config.stash[SELECTED] = [item.name for item in session.items if "row" in getattr(item, "fixturenames", ())]


@pytest.fixture(scope="session")
def bench(request: pytest.FixtureRequest) -> Session:
    """The run: one device, one mode, one result file."""
    config = request.config
    device = _device(config)
    config.stash[SESSION] = made = Session(_mode(config), device, _folder(config, device), len(config.stash[SELECTED]))
    _print(config, "\n" + table.machine_line(made.machine))
    return made


@pytest.fixture
def report_row(request: pytest.FixtureRequest, bench: Session) -> Any:
    """Print a row's progress line when its test ends, whatever became of it."""
    before = len(bench.results.rows)
    yield
    for result in bench.results.rows[before:]:
        _print(request.config, progress(result, len(bench.results.rows), len(request.config.stash[SELECTED])))


def _print(config: pytest.Config, line: str) -> None:
    """Write a line at once, past pytest's capture."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and config.get_verbosity() >= 0:
        with config.pluginmanager.get_plugin("capturemanager").global_and_fixture_disabled():
            reporter.write(line + "\n", flush=True)


def pytest_report_teststatus(report: pytest.TestReport, config: pytest.Config) -> tuple[str, str, str] | None:
    """No letters between the progress lines: every row has a line of its own."""
    if SESSION in config.stash and report.when == "call" and report.outcome in ("passed", "failed", "skipped"):
        return report.outcome, "", ""
    return None


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """The table, and where the files are."""
    session = config.stash.get(SESSION, None)
    if session is None:
        return
    complete = {row.key for row in config.stash[PLANNED]} == {result["key"] for result in session.results.rows}
    terminalreporter.section(f"gankern benchmarks, --{session.mode}")
    # What is committed has its plots on the page that `gankern bench --report` writes.
    for line in cli.closing(session, complete, drawn=not config.getoption("--record", False)):
        terminalreporter.write_line(line)
