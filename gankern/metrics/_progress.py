"""Progress: tqdm's bar where it is installed, else a line every few seconds; both on standard error."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

_EVERY = 5.0  # seconds between lines


class Progress:
    """Counts towards ``total`` (None: unknown) while its ``with`` block runs; silent unless ``show``."""

    def __init__(self, what: str, total: int | None, show: bool) -> None:
        self.what, self.total, self.show = what, total, show
        self.done, self._said = 0, time.monotonic()
        self._bar: Any = None
        if show:
            try:
                from tqdm.auto import tqdm
            except ImportError:
                return
            self._bar = tqdm(total=total, desc=what, unit="", file=sys.stderr)

    def __enter__(self) -> Progress:
        return self

    def add(self, count: int) -> None:
        """``count`` more are done."""
        self.done += count
        if self._bar is not None:
            self._bar.update(count)
        elif self.show and time.monotonic() - self._said > _EVERY:
            self._say()

    def _say(self) -> None:
        self._said = time.monotonic()
        print(f"{self.what}: {self.done}" + (f" of {self.total}" if self.total else ""), file=sys.stderr, flush=True)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()
        elif self.show:
            self._say()
