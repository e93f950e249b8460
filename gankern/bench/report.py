"""One page from result files: self-contained HTML with the plots inside, or Markdown."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gankern.bench import plots, table
from gankern.bench.common import BenchError
from gankern.bench.results import find, load

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 1280px; padding: 0 1em; color: #222; }
table { border-collapse: collapse; margin: 0.6em 0 1.4em; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: 3px 9px; border-bottom: 1px solid #ddd; text-align: left; }
td.number { text-align: right; white-space: nowrap; }
th { background: #f3f3f3; }
.bad { color: #b00020; font-weight: 600; }
.facts td:first-child { color: #666; }
img { max-width: 100%; }
"""


def build(paths: Sequence[Path], out: Path) -> list[Path]:
    """Write the page of all result files in ``paths`` (files and folders); returns the files it shows.

    Raises:
        BenchError: a path is no result file or holds none, or ``out`` is neither .html nor .md or cannot be written.
    """
    makers = {".html": page_html, ".htm": page_html, ".md": page_markdown}
    maker = makers.get(out.suffix.lower())
    if maker is None:
        raise BenchError(f"--out {out}: a report is written as .html or .md")
    files = find(paths)
    page = maker([(path, load(path)) for path in files])
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(page, encoding="utf-8")
    except OSError as error:
        raise BenchError(f"--out {out}: cannot be written ({error.strerror})") from error
    return files


def _heading(data: Mapping[str, Any]) -> str:
    machine = data["machine"]
    state = "" if data.get("complete") else ", incomplete"
    return f"{machine.get('device', 'unknown device')}, {data['mode']}{state}"


def _facts(data: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Machine facts as (name, value) lines, nested ones flattened."""
    found = []
    for name, value in data["machine"].items():
        if isinstance(value, dict):
            value = ", ".join(f"{k} {v}" for k, v in value.items() if v is not None)
        if value is not None:
            found.append((name.replace("_", " "), str(value)))
    return found


def _ceilings(data: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(what, number) of the ceilings that were measured with the file."""
    section = data.get("ceilings") or {}
    return [(item["name"], f"{item['value']:.4g} {item['unit']}") for item in section.get("items", [])]


def page_html(files: Sequence[tuple[Path, Mapping[str, Any]]]) -> str:
    """The HTML page: nothing in it is loaded from elsewhere."""
    escape = html.escape
    parts = [f"<!doctype html><html lang='en'><meta charset='utf-8'><title>gankern benchmarks</title><style>{_STYLE}</style>"]
    parts.append(f"<h1>gankern benchmarks</h1><p>{escape(table.LEGEND)}.</p>")
    for path, data in files:
        parts.append(
            f"<h2>{escape(_heading(data))}</h2><p>{escape(path.name)}: {escape(table.machine_line(data['machine']))}</p>"
        )
        if plots.available():
            for name, image in plots.draw(data).items():
                source = base64.b64encode(image).decode("ascii")
                parts.append(f"<p><img alt='{escape(name)}' src='data:image/png;base64,{source}'></p>")
        else:
            parts.append(f"<p>{escape(plots.MISSING)}</p>")
        for op, members in table.groups(data["rows"]).items():
            parts.append(f"<h3>{escape(op)}</h3>" + _html_table(table.COLUMNS, [table.cells(member) for member in members]))
        lines = (*table.notes(data["rows"]), *table.summary(data["rows"]))
        parts.append("<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>")
        if _ceilings(data):
            parts.append("<h3>Ceilings of the machine</h3>" + _html_table(("what", "measured"), _ceilings(data)))
        facts = "".join(f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in _facts(data))
        parts.append(f"<details><summary>Machine and versions</summary><table class='facts'>{facts}</table></details>")
    return "\n".join([*parts, "</html>\n"])


def _html_table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    def cell(index: int, value: str) -> str:
        bad = " bad" if any(word in value for word in ("MISSED", "WRONG", "ERROR")) else ""
        number = "number" if 0 < index < 8 and len(head) > 2 else ""
        return f"<td class='{number}{bad}'>{html.escape(value)}</td>"

    top = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    body = "".join("<tr>" + "".join(cell(i, v) for i, v in enumerate(line)) + "</tr>" for line in lines)
    return f"<table><tr>{top}</tr>{body}</table>"


def page_markdown(files: Sequence[tuple[Path, Mapping[str, Any]]]) -> str:
    """The Markdown page: tables and facts (Markdown viewers refuse embedded images)."""
    parts = ["# gankern benchmarks\n"]
    for path, data in files:
        parts.append(f"## {_heading(data)}\n\n{path.name}: {table.machine_line(data['machine'])}\n")
        parts.append(table.markdown(data["rows"]))
        if _ceilings(data):
            parts.append("\n### Ceilings of the machine\n\n| what | measured |\n|---|---|")
            parts += [f"| {what} | {number} |" for what, number in _ceilings(data)]
        parts.append("\n### Machine and versions\n\n| | |\n|---|---|")
        parts += [f"| {name} | {value} |" for name, value in _facts(data)]
        parts.append("")
    return "\n".join(parts) + "\n"
