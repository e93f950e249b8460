"""What a run says while it goes: a bar where tqdm is installed and somebody looks, else a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from gankern.train.curves import FIRST

SECONDS = 10.0
"""Between two lines."""
WINDOW = 5
"""Rows of losses in a row in which the discriminator must have won, before it is said."""
WON = 0.99
"""Share of images told apart from which on it has."""


class Progress:
    """Shows steps and losses.

    Args:
        total: steps of the run.
        start: steps made before.
        show: False shows nothing.
        name: in front of it.
    """

    def __init__(self, total: int, start: int = 0, show: bool = True, name: str = "") -> None:
        self.total, self.start, self.show, self.name = total, start, show, name
        self.began = self.last = time.monotonic()
        self.text = ""
        self.bar: Any = None
        if show and sys.stderr.isatty():
            try:
                from tqdm import tqdm

                self.bar = tqdm(total=total, initial=start, desc=name or None, unit="step", dynamic_ncols=True)
            except ImportError:
                pass

    def step(self, done: int) -> None:
        """``done`` steps are made."""
        if self.bar is not None:
            self.bar.update(done - self.bar.n)
            return
        now = time.monotonic()
        if self.show and (now - self.last >= SECONDS or done == self.total):
            self.last = now
            rate = (done - self.start) / max(now - self.began, 1e-9)
            left = f", {(self.total - done) / rate:.0f} s left" if done < self.total else ""
            self.note(f"{self.name}: step {done}/{self.total}, {rate:.3g} steps/s{left}{self.text and ': '}{self.text}")

    def losses(self, row: Mapping[str, float]) -> None:
        """The newest losses."""
        self.text = ", ".join(f"{k} {v:.3g}" for k, v in row.items() if k not in FIRST)
        if self.bar is not None:
            self.bar.set_postfix_str(self.text, refresh=False)

    def metrics(self, row: Mapping[str, float]) -> None:
        """The newest metrics."""
        found = ", ".join(f"{k} {v:.4g}" for k, v in row.items() if k not in FIRST)
        self.note(f"{self.name}: step {row['step']:.0f}: {found}")

    def note(self, line: str | None) -> None:
        """Say something, if there is something, above the bar."""
        if not self.show or line is None:
            return
        if self.bar is not None:
            self.bar.write(line, file=sys.stderr)
        else:
            print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self.bar is not None:
            self.bar.close()


class Referee:
    """Says once when the discriminator has won, and again if it wins anew after the generator had come back."""

    def __init__(self) -> None:
        self.rows, self.said = 0, False

    def look(self, row: Mapping[str, float]) -> str | None:
        """A warning to be shown, or None.

        Args:
            row: of losses, with ``accuracy`` where the loss has one.
        """
        share = row.get("accuracy")
        if share is None:
            return None
        if share < WON:
            self.rows, self.said = 0, self.said and share > 0.9
            return None
        self.rows += 1
        if self.rows < WINDOW or self.said:
            return None
        self.said = True
        return (
            f"warning: the discriminator wins: it has told {100 * share:.0f} % of the images apart for {WINDOW} rows "
            f"of losses, up to step {row['step']:.0f}, so that the generator may learn little from it. What helps: a lower "
            "--lr-d, fewer --n-critic, a gradient penalty (--r1 1), label smoothing (--loss-option smoothing=0.1), more images"
        )


__all__ = ["Progress", "Referee"]
