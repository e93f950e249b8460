"""The table of a run: the same columns in the terminal, in Markdown and in HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gankern.bench.common import digits, mebibytes, percent, seconds, times
from gankern.bench.rows import Row

COLUMNS = ("row", "ours", "spread", "vs eager", "vs compile", "copy share", "peak MiB", "eager's", "backend", "goals")

LEGEND = (
    "ours: median; spread: interquartile range; vs: their time over ours; copy share: least memory traffic over our time, "
    "as a share of a copy in the same run; peak MiB: most memory above the inputs"
)

_NOT_SHORT = {"skipped": "skipped", "error": "ERROR", "wrong": "WRONG"}


def row_of(result: Mapping[str, Any]) -> Row:
    """The row that a result is about."""
    return Row(*(result[name] for name in ("op", "sample", "dtype", "layout", "direction", "backend")))


def goal_text(goal: Mapping[str, Any]) -> str:
    """A judged goal in a cell: 'eager >= 10 met'."""
    name = goal["metric"].removeprefix("speedup_").replace("copy_share", "copy")
    verdict = {"stretch": "stretch met", "must": "met", "missed": "MISSED", "unmeasured": "?"}[goal["verdict"]]
    bound = goal["stretch"] if goal["verdict"] == "stretch" else goal["must"]
    return f"{name} {'<=' if goal['at_most'] else '>='} {bound:g} {verdict}"


def cells(result: Mapping[str, Any]) -> tuple[str, ...]:
    """The cells of one row, in the order of :data:`COLUMNS`."""
    title = row_of(result).title
    if result["status"] in ("skipped", "error"):
        return (title, _NOT_SHORT[result["status"]], "", "", "", "", "", "", result.get("taken", ""), result["note"])
    numbers, mine = result["metrics"], result["times"].get("ours")
    reasons = result["cells"]
    spread = f"{100 * mine['iqr'] / mine['median']:.0f}%" if mine and mine["median"] else "-"
    text = ", ".join(goal_text(goal) for goal in result["goals"])
    if result["status"] == "wrong":
        text = f"WRONG: {result['note']}"
    return (
        title,
        seconds(mine and mine["median"]),
        spread,
        times(numbers.get("speedup_eager")) if "eager" not in reasons else "failed",
        times(numbers.get("speedup_compile")) if "compile" not in reasons else "cannot",
        percent(numbers.get("copy_share")),
        mebibytes(result["memory"].get("ours")),
        mebibytes(result["memory"].get("eager")),
        result.get("taken", ""),
        text,
    )


def groups(results: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Results by op, in the order of their appearance."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for result in results:
        found.setdefault(result["op"], []).append(result)
    return found


def notes(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the cells have no room for: reasons of missing numbers and of a missing kernel, each once."""
    found: dict[str, None] = {}
    for result in results:
        if result["status"] == "ok" and result["note"]:
            found[f"{result['op']}: {result['note']}"] = None
        for name, reason in result["cells"].items():
            found[f"{result['op']} {result['direction']}, {name}: {reason}"] = None
        for name, value in result["metrics"].items():
            if name.startswith("time_over_"):
                found[f"{result['op']} {row_of(result).title}: {name} {digits(value)}"] = None
    above = [row["metrics"] for row in results if (row["metrics"].get("copy_share") or 0) > 1.05]
    warm = [numbers["warm_copy_share"] for numbers in above if numbers.get("warm_copy_share")]
    if warm:
        span = " to ".join(dict.fromkeys((percent(min(warm)), percent(max(warm)))))
        found[
            "copy share above 100%: PyTorch's copy waits for fresh memory page by page, kernels here ask for huge pages; of a "
            f"copy into memory that is mapped already, these rows reach {span}"
        ] = None
    return list(found)


def text(results: Sequence[Mapping[str, Any]]) -> str:
    """The table for a terminal, with its notes."""
    if not results:
        return "no rows were measured"
    lines: list[tuple[str, ...] | str] = []
    for op, members in groups(results).items():
        lines.append(op)
        lines += [("  " + first, *rest) for first, *rest in map(cells, members)]
    head = ("", *COLUMNS[1:])
    rows = [head, *(line for line in lines if not isinstance(line, str))]
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS) - 1)]

    def show(row: tuple[str, ...]) -> str:
        # The first column reads from the left, numbers from the right, backend and goals from the left.
        padded = [row[0].ljust(widths[0]), *(row[i].rjust(widths[i]) for i in range(1, 8)), row[8].ljust(widths[8]), row[9]]
        return "  ".join(padded).rstrip()

    shown = [show(head), *(line if isinstance(line, str) else show(line) for line in lines)]
    return "\n".join([*shown, "", LEGEND, *notes(results), *summary(results)])


def summary(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line on the goals, if there are any."""
    verdicts = [goal["verdict"] for result in results for goal in result["goals"]]
    if not verdicts:
        return []
    reached = sum(v in ("must", "stretch") for v in verdicts)
    return [
        f"goals: {reached} of {len(verdicts)} reached, {verdicts.count('stretch')} of them with their stretch, "
        f"{verdicts.count('missed')} missed, {verdicts.count('unmeasured')} not measured"
    ]


def machine_line(machine: Mapping[str, Any]) -> str:
    """Device, versions and commit in one line."""
    versions = machine.get("versions", {})
    parts = [str(machine.get("device"))]
    if machine.get("kind") == "cpu":
        parts.append(f"{machine.get('threads')} threads of {machine.get('cores')} cores")
        parts.append(f"kernels {machine['cpu_level']}" if machine.get("cpu_level") else "no native kernels")
    parts += [f"{name} {versions[name]}" for name in ("torch", "triton", "cuda", "python", "gankern") if versions.get(name)]
    if machine.get("commit"):
        parts.append(f"commit {machine['commit'][:10]}{' with changes' if machine.get('dirty') else ''}")
    return ", ".join(parts)


def markdown(results: Sequence[Mapping[str, Any]]) -> str:
    """The table in Markdown, one per op, with its notes."""
    parts = []
    for op, members in groups(results).items():
        parts.append(f"### {op}\n")
        parts.append("| " + " | ".join(COLUMNS) + " |")
        parts.append("|---" * len(COLUMNS) + "|")
        parts += ["| " + " | ".join(cell.replace("|", "\\|") or " " for cell in cells(member)) + " |" for member in members]
        parts.append("")
    parts += [f"- {line}" for line in (*notes(results), *summary(results))]
    return "\n".join([*parts, "", LEGEND + "."])
