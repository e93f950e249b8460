"""Parts of Markdown pages that are written from result files: between two marks, rewritten or only compared."""

from __future__ import annotations

from pathlib import Path

from gankern._files import write_text
from gankern.bench.common import BenchError


def rewritten(path: Path, begin: str, end: str, section: str) -> tuple[str, str]:
    """The text of a page as it is, and with ``section`` (marks included) in place of what stands between the marks.

    Raises:
        BenchError: the page cannot be read, or the marks do not stand in it once each, in their order.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise BenchError(f"{path}: cannot be read ({error.strerror})") from error
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise BenchError(f"{path}: needs the lines {begin!r} and {end!r} once each")
    head, rest = text.split(begin)
    return text, head + section + rest.split(end)[1]


def write_section(path: Path, begin: str, end: str, section: str, check: bool = False) -> int:
    """Put ``section`` between the marks of a page; with ``check`` change nothing, and say whether it stands there.

    Returns:
        0, or 1 where ``check`` finds something else.

    Raises:
        BenchError: as :func:`rewritten`.
    """
    old, new = rewritten(path, begin, end, section)
    if check:
        print(f"{path.name} {'agrees' if new == old else 'does not agree'} with the results")
        return int(new != old)
    write_text(path, new)
    return 0
