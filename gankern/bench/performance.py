"""docs/performance.md and README's results, from the committed result files: tables, plots, goals and why some are missed.

``gankern bench --report`` writes the page and its plots, ``gankern bench --report --check`` and the tests say whether both are
what the results make them. Every number comes from ``benchmarks/results/<device>/*.json``; a row that several files have is
that of the latest.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gankern._files import replacing, write_text
from gankern.bench import figures, plots, reasons, scaling, table
from gankern.bench.common import BenchError, mebibytes, percent, seconds, times
from gankern.bench.inference import INFERENCE
from gankern.bench.machine import ROOT
from gankern.bench.models import MODELS
from gankern.bench.networks import SPECS as NETWORKS
from gankern.bench.results import load
from gankern.bench.steps import STEPS

BEGIN, END = "<!-- results: python -m benchmarks.readme -->", "<!-- end of results -->"
PEERS = "gankern-peers 1"
DIRECTIONS = ("forward", "backward", "double_backward")
COLUMNS = ("what", "forward", "forward + backward", "gradient penalty", "over torch.compile", "memory saved", "of copy speed")
_WRONG = "wrong result"
_APART = frozenset({*MODELS, *NETWORKS, *INFERENCE})
"""What has tables of its own."""

Row = Mapping[str, Any]


@dataclass
class Device:
    """The committed results of one device.

    Attributes:
        folder: of its files.
        files: result files by name, oldest first.
        peers: results of foreign codebases.
        scaling: how cost grows, or None.
    """

    folder: Path
    files: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    peers: list[Mapping[str, Any]] = field(default_factory=list)
    scaling: Mapping[str, Any] | None = None

    @property
    def rows(self) -> list[Row]:
        """All rows; of those with the same key the latest, in the place of the first."""
        found: dict[str, Row] = {}
        for data in self.files.values():
            for row in data["rows"]:
                found[row["key"]] = row
        return list(found.values())


def read(folder: Path) -> Device:
    """The results in a device's folder.

    Raises:
        BenchError: a file that is none of the kinds that are kept there.
    """
    device, files = Device(folder), []
    for path in sorted(folder.glob("*.json")):
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            raise BenchError(f"{path}: not a result file (not JSON)") from None
        kind = data.get("format") if isinstance(data, dict) else None
        if kind == PEERS:
            device.peers.append(data)
        elif kind == scaling.FORMAT:
            device.scaling = data
        else:
            files.append((path.stem, load(path)))
    device.files = dict(sorted(files, key=lambda item: str(item[1]["machine"].get("date"))))
    return device


def devices(root: Path = ROOT) -> list[Device]:
    """Every device with committed results (``latest`` is git-ignored and not one).

    Raises:
        BenchError: there are no results.
    """
    base = root / "benchmarks" / "results"
    folders = sorted(p for p in base.glob("*") if p.is_dir() and p.name != "latest")
    if not folders:
        raise BenchError(f"--report: no committed results ({base}); it needs a checkout, or --report FILES --out PAGE")
    return [read(folder) for folder in folders]


# ---- tables ------------------------------------------------------------------------------------------------------------
def _lines(head: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table."""
    return ["| " + " | ".join(head) + " |", "|---" * len(head) + "|", *("| " + " | ".join(cells) + " |" for cells in lines)]


def _best(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row["backend"] == "best" and row["status"] == "ok"]


def _plain(rows: Sequence[Row]) -> list[Row]:
    """The rows in float32 and NCHW."""
    return [row for row in _best(rows) if row["dtype"] == "float32" and row["layout"] == "nchw"]


def _by_sample(rows: Sequence[Row]) -> dict[tuple[str, str], dict[str, Row]]:
    """Rows of operators and steps by (op, sample), then by direction."""
    found: dict[tuple[str, str], dict[str, Row]] = {}
    for row in rows:
        if row["op"] not in _APART:
            found.setdefault((row["op"], row["sample"]), {})[row["direction"]] = row
    return found


def _cell(row: Row | None) -> str:
    """'1.2x (3.4 ms)': over eager, and our time."""
    if row is None:
        return "-"
    return f"{times(row['metrics'].get('speedup_eager'))} ({seconds(row['times']['ours']['median'])})"


def _cells(rows: Mapping[str, Row]) -> tuple[str, ...]:
    """One sample: its time and speed-up in each direction; the last three columns are about forward (memory: the largest)."""
    first = rows.get("forward") or next(iter(rows.values()))
    saved = [r["metrics"].get("memory_saved") for r in rows.values()]
    step = " (the step)" if first["op"] in STEPS else ""
    return (
        f"`{first['op']}`, {first['description'] or first['sample']}{step}",
        *(_cell(rows.get(direction)) for direction in DIRECTIONS),
        times(first["metrics"].get("speedup_compile")),
        times(max((s for s in saved if s is not None), default=None)),
        "-" if step else percent(first["metrics"].get("copy_share")),
    )


def operators(rows: Sequence[Row]) -> list[str]:
    """The table of operators and steps in float32 and NCHW."""
    return _lines(COLUMNS, [_cells(of) for of in _by_sample(_plain(rows)).values()])


def wrong(rows: Sequence[Row]) -> list[str]:
    """Where eager is wrong, or both sides are off by their rounding."""
    found = [row for row in _best(rows) if row["note"].startswith(("eager is wrong", "rounding at kinks"))]
    return [
        f"- `{row['op']}` {row['direction']}, {row['description']}, {row['dtype']}, {row['layout']}: {row['note']}"
        for row in found
    ]


def small_models(rows: Sequence[Row]) -> list[str]:
    """The reference GANs at small sizes: forward of the generator and a training step, a family a line."""
    families: dict[str, dict[str, Row]] = {}
    for row in _plain(rows):
        if row["op"] in MODELS:
            families.setdefault(row["sample"], {})[row["op"]] = row
    lines = [(f"`{name}`", *(_cell(of.get(op)) for op in MODELS)) for name, of in families.items()]
    return _lines(("`gankern.models`", "generator", "critic + generator step"), lines) if lines else []


def _networks(rows: Sequence[Row]) -> list[Row]:
    return [row for row in _plain(rows) if row["op"] in NETWORKS and "tiny" not in row["sample"]]


def networks(rows: Sequence[Row]) -> list[str]:
    """Whole networks: times, speed-ups, the ceiling, memory."""
    head = (
        "network",
        "phase",
        "eager",
        "ours",
        "faster",
        "ceiling",
        "over torch.compile",
        "bf16 over f32",
        "peak MiB",
        "eager's",
    )
    lines = []
    for row in sorted(_networks(rows), key=lambda r: r["sample"]):
        numbers, cannot = row["metrics"], row["cells"].get("compile")
        lines.append(
            (
                row["description"],
                row["op"].removeprefix("network_").replace("_", " "),
                seconds(row["times"].get("eager", {}).get("median")),
                seconds(row["times"]["ours"]["median"]),
                times(numbers.get("speedup_eager")),
                times(numbers.get("ceiling")),
                "not possible" if cannot else times(numbers.get("speedup_compile")),
                times(numbers.get("time_over_bf16_autocast")),
                mebibytes(row["memory"].get("ours")),
                mebibytes(row["memory"].get("eager")),
            )
        )
    reasons = {row["cells"]["compile"] for row in _networks(rows) if "compile" in row["cells"]}
    return [*_lines(head, lines), "", *(f"- torch.compile: {reason}" for reason in sorted(reasons))] if lines else []


def inference(rows: Sequence[Row]) -> list[str]:
    """Generators compiled for inference beside everything else that stands in their rows."""
    mine = [row for row in _best(rows) if row["op"] in INFERENCE]
    if not mine:
        return []
    others = list(dict.fromkeys(n for row in mine for n in row["times"] if n not in ("ours", "copy", "warm_copy")))
    head = ("what", "ours", *(f"over {name}" for name in others))
    return _lines(
        head,
        [
            (
                row["description"],
                seconds(row["times"]["ours"]["median"]),
                *(times(row["metrics"].get(f"speedup_{name}")) for name in others),
            )
            for row in mine
        ],
    )


def peers(data: Sequence[Mapping[str, Any]]) -> list[str]:
    """Foreign codebases' own networks."""
    lines = [
        (
            f"{of['title']} {of['model']}, batch {of['batch']}",
            row["phase"].replace("_", " "),
            seconds(row["times"]["own"]["median"]),
            seconds(row["times"]["ours"]["median"]),
            times(row["ratio"]),
            times(row["ceiling"]),
        )
        for of in data
        for row in of["phases"]
    ]
    return _lines(("codebase", "phase", "its own", "on gankern", "faster", "ceiling"), lines) if lines else []


def scaled(data: Mapping[str, Any]) -> list[str]:
    """Growth in words: time at the largest over time at the smallest value, ours and eager."""
    lines = []
    for sweep in data["sweeps"]:
        first, last = sweep["points"][0], sweep["points"][-1]
        grown = [last[side]["median"] / first[side]["median"] for side in ("ours", "eager")]
        gained = [point["eager"]["median"] / point["ours"]["median"] for point in (first, last)]
        span = f"{first['value']} to {last['value']}"
        lines.append((f"{sweep['title']}", sweep["parameter"], span, *map(times, (*grown, *gained))))
    head = ("what", "parameter", "from, to", "our time grows", "eager's grows", "faster at first", "at last")
    parts = _lines(head, lines)
    memory, imports = data.get("memory"), data.get("imports")
    if memory:
        grown = memory["growth_per_step"]
        text = "unknown" if grown is None else f"{grown:.0f} bytes a step in the second half"
        parts += ["", f"Memory over {memory['steps']} training steps of a small {memory['family']}: it grows by {text}."]
    if imports:
        share = imports["gankern"] / imports["torch"]
        parts += ["", f"`import gankern` takes {seconds(imports['gankern'])} of CPU time after `import torch`'s "]
        parts[-1] += f"{seconds(imports['torch'])}: {percent(share)}."
    return parts


def judged(rows: Sequence[Row], kind: str) -> list[str]:
    """Every goal of the measured rows: verdict, and the measured reason where one is missed."""
    peak = roof[1] if (roof := _roofline_data(rows)) else None
    lines, counts = [], dict.fromkeys(("stretch", "must", "missed", "unmeasured", _WRONG), 0)
    for row in rows:
        for goal in row["goals"]:
            # However fast: a row whose result is not right reaches nothing.
            verdict = _WRONG if row["status"] == "wrong" else goal["verdict"]
            counts[verdict] += 1
            sign, bound = "<=" if goal["at_most"] else ">=", goal["must"]
            value = "-" if goal["value"] is None else f"{goal['value']:.3g}"
            short = verdict in ("missed", "unmeasured")
            reason = row["note"] if verdict == _WRONG else reasons.why(row, kind, goal, peak) if short else ""
            name, far = f"`{row['op']}` {table.row_of(row).title}", f"{goal['stretch']:g}"
            lines.append((name, goal["metric"], f"{sign} {bound:g}", far, value, verdict, reason or " "))
    if not lines:
        return []
    order = {_WRONG: 0, "missed": 1, "unmeasured": 2, "must": 3, "stretch": 4}
    lines.sort(key=lambda line: order[line[5]])
    summary = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    head = ("row", "number", "must", "stretch", "measured", "verdict", "why it is missed")
    return [f"{len(lines)} goals: {summary}.", "", *_lines(head, lines)]


# ---- plots -------------------------------------------------------------------------------------------------------------
def _speedup_data(rows: Sequence[Row]) -> list[tuple[str, dict[str, float]]]:
    data = []
    for (op, sample), of in _by_sample(_plain(rows)).items():
        found = {d: of[d]["metrics"]["speedup_eager"] for d in DIRECTIONS if d in of and of[d]["metrics"].get("speedup_eager")}
        if found:
            data.append((f"{op}\n{sample}", found))
    return data


def _roofline_data(rows: Sequence[Row]) -> tuple[float, float, list[tuple[str, str, float, float]]] | None:
    """Copy bandwidth and convolution peak (the best seen in these rows), and each forward row that counts both."""
    points, peak, bandwidth = [], 0.0, 0.0
    for row in _plain(rows):
        flops, moved = 2 * (row.get("macs") or 0), row.get("bytes") or 0
        bandwidth = max(bandwidth, row["metrics"].get("copy_bandwidth") or 0.0)
        if row["direction"] != "forward" or not flops:
            continue
        for name in ("plain_conv", "eager"):
            if name in row["times"] and (name == "plain_conv" or row["op"] == "conv2d"):
                peak = max(peak, flops / row["times"][name]["median"])
        if moved:
            for side in ("ours", "eager"):
                if side in row["times"]:
                    points.append((row["op"], side, flops / moved, flops / row["times"][side]["median"]))
    return (bandwidth, peak, points) if points and peak and bandwidth else None


def _network_data(rows: Sequence[Row]) -> list[tuple[str, float, float | None]]:
    data = []
    for row in sorted(_networks(rows), key=lambda r: r["sample"]):
        if row["metrics"].get("speedup_eager"):
            label = f"{row['sample']} {row['op'].removeprefix('network_').replace('_', ' ')}"
            data.append((label, row["metrics"]["speedup_eager"], row["metrics"].get("ceiling")))
    return data


def drawings(device: Device) -> dict[str, tuple[Any, Callable[[], bytes]]]:
    """The plots of a device: name to (what they are made of, the call that draws)."""
    rows, name = device.rows, device.folder.name
    found: dict[str, tuple[Any, Callable[[], bytes]]] = {}
    if bars := _speedup_data(rows):
        found[f"{name}-speedup.png"] = (bars, lambda: figures.speedups(bars))
    if whole := _network_data(rows):
        found[f"{name}-networks.png"] = (whole, lambda: figures.networks(whole))
    if roof := _roofline_data(rows):
        found[f"{name}-roofline.png"] = (list(roof), lambda: figures.roofline(*roof))
    if of := device.scaling:
        parts = [of["sweeps"], of["memory"]]
        found[f"{name}-scaling.png"] = (parts, lambda: figures.scaling(*parts))
    return found


# ---- pages -------------------------------------------------------------------------------------------------------------
def readme_section(found: Sequence[Device], root: Path = ROOT) -> str:
    """README's results: for each device the table of operators in its quick run, small models, and a plot."""
    parts = [BEGIN]
    for device in found:
        data = device.files.get("quick")
        if data is None:
            continue
        parts += ["", f"{table.machine_line(data['machine'])}:", "", *operators(data["rows"])]
        if models := small_models(data["rows"]):
            parts += ["", "Reference GANs at small sizes, where much of the time is Python's:", "", *models]
        parts += ["", *wrong(data["rows"])]
        beside = sorted(device.folder.glob("quick*.png"))  # of a run that drew its own
        page = root / "docs" / "performance" / f"{device.folder.name}-speedup.png"
        for image in beside or [page] * page.exists():
            parts += ["", f"![{image.stem}]({image.relative_to(root).as_posix()})"]
    return "\n".join([*parts, "", END])


def page(found: Sequence[Device]) -> str:
    """The text of docs/performance.md."""
    parts = [
        "# Performance",
        "",
        "Written by `gankern bench --report` from the files in [benchmarks/results](../benchmarks/results); nothing here is",
        "typed by hand. What each number means, and how it was measured: [benchmarks/README.md](../benchmarks/README.md).",
        "Ratios are of one run, in which the sides took turns.",
    ]
    for device in found:
        parts += _of_device(device)
    return "\n".join(parts) + "\n"


def _of_device(device: Device) -> list[str]:
    rows = device.rows
    title = next((str(data["machine"].get("device")) for data in device.files.values()), device.folder.name)
    kind = next((str(data["machine"].get("kind")) for data in device.files.values()), "cpu")
    drawn = drawings(device)
    parts = ["", f"## {title}", "", *_lines(("file", "measured on", "date"), _sources(device)), ""]
    sections = (
        ("Operators", "speedup", [*_part(operators(rows)), *_part(wrong(rows)), *_part([_OPERATORS])]),
        ("Roofline", "roofline", [_ROOFLINE]),
        ("Whole networks", "networks", networks(rows)),
        ("Small networks", "", small_models(rows)),
        ("Inference", "", inference(rows)),
        ("Existing codebases", "", peers(device.peers)),
        ("Scaling", "scaling", scaled(device.scaling) if device.scaling else []),
        ("Goals", "", judged(rows, kind)),
    )
    for heading, plot, text in sections:
        image = f"{device.folder.name}-{plot}.png"
        if not text or (plot == "roofline" and image not in drawn):
            continue
        parts += [f"### {heading}", ""]
        if note := _NOTES.get(heading):
            parts += [note, ""]
        if plot and image in drawn:
            parts += [f"![{heading}](performance/{image})", ""]
        parts += [*text, ""]
    others = [row for row in _best(rows) if row not in _plain(rows) and row["op"] not in _APART]
    if others:
        parts += ["### Other dtypes and layouts", ""]
        for op, members in table.groups(others).items():
            lines = [table.cells(member)[:8] for member in members]
            parts += [
                "<details><summary>",
                "",
                f"`{op}`",
                "",
                "</summary>",
                "",
                *_lines(table.COLUMNS[:8], lines),
                "",
                "</details>",
                "",
            ]
    return parts


_OPERATORS = (
    "Times faster than eager PyTorch, and our median. Forward, with its gradients, and with those of their squared norm; the "
    "last three columns are about forward (memory: the most that is saved in any direction)."
)
_ROOFLINE = (
    "Forward passes that count both their multiply-adds and their least traffic. The roofs were measured in the same runs: the "
    "best copy of any row, and the fastest plain convolution. A point above the slope reads and writes its tensors faster than "
    "`x.clone()` does, whose fresh output the system has to map first."
)
_NOTES = {
    "Whole networks": "The ceiling is eager's time over that of the convolutions alone, as few as the phase needs: what a "
    "speed-up would be if everything else cost nothing. The merged gradient of a critic's step needs fewer, and may pass it.",
    "Small networks": "At few channels much of the time is Python's.",
    "Existing codebases": "Their own networks from their own checkouts, as they are and on gankern's shims: "
    "[compat.md](compat.md).",
}


def _part(lines: list[str]) -> list[str]:
    return [*lines, ""] if lines else []


def _sources(device: Device) -> list[tuple[str, str, str]]:
    of = [(f"{name}.json", data["machine"]) for name, data in device.files.items()]
    of += [("scaling.json", device.scaling["machine"])] if device.scaling else []
    return [(name, table.machine_line(facts), str(facts.get("date", "-"))[:10]) for name, facts in of]


def write(root: Path = ROOT, check: bool = False) -> list[str]:
    """Write docs/performance.md and its plots, or with ``check`` compare them with what would be written.

    Returns:
        What was written; with ``check`` what differs. Plots are compared by the numbers that they say they were made of, since
        no two versions of matplotlib draw the same bytes.

    Raises:
        BenchError: there are no results, or plots must be drawn without matplotlib.
    """
    found = devices(root)
    text, path, folder = page(found), root / "docs" / "performance.md", root / "docs" / "performance"
    wanted = {name: drawing for device in found for name, drawing in drawings(device).items()}
    if check:
        differ = [] if path.is_file() and path.read_text(encoding="utf-8") == text else [path.name]
        for name, (data, _) in wanted.items():
            image = folder / name
            if not image.is_file() or figures.digest_of(image.read_bytes()) != figures.digest(data):
                differ.append(name)
        return differ + [p.name for p in sorted(folder.glob("*.png")) if p.name not in wanted]
    if wanted and not plots.available():
        raise BenchError(f"--report: {plots.MISSING}")
    for name, (_, draw) in wanted.items():
        png = draw()
        with replacing(folder / name) as temporary:
            temporary.write_bytes(png)
    for old in sorted(folder.glob("*.png")):
        if old.name not in wanted:
            old.unlink()
    write_text(path, text)
    return [path.name, *wanted]
