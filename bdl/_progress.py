"""The line that says how far a fit has come."""

import importlib.util
import sys
import time
from typing import Any


def progress_bar(total: int, done: int, show: bool) -> Any:
    """A bar with `update(steps, figures)` and `close()`: tqdm's where it is installed."""
    if not show:
        return _Silent()
    return _Tqdm(total, done) if importlib.util.find_spec("tqdm") else _Line(total, done)


class _Silent:
    def update(self, steps: int, figures: dict[str, float]) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class _Tqdm:
    def __init__(self, total: int, done: int):
        from tqdm import tqdm

        self._bar = tqdm(total=total, initial=done, desc="fit", unit="step", dynamic_ncols=True)

    def update(self, steps: int, figures: dict[str, float]) -> None:
        self._bar.set_postfix_str(_text(figures), refresh=False)
        self._bar.update(steps)

    def close(self) -> None:
        self._bar.close()


class _Line:
    """A line of standard error, written over on a terminal; elsewhere a new one for every tenth of the steps."""

    def __init__(self, total: int, done: int):
        self._total, self._done, self._shown = total, done, 10 * done // total
        self._from, self._start = done, time.perf_counter()

    def update(self, steps: int, figures: dict[str, float]) -> None:
        self._done += steps
        rate = (self._done - self._from) / max(time.perf_counter() - self._start, 1e-9)
        line = f"fit: step {self._done}/{self._total}, {rate:.0f} steps/s, {_text(figures)}"
        tenth = 10 * self._done // self._total
        if sys.stderr.isatty():
            print(f"\r{line}\033[K", end="", file=sys.stderr, flush=True)
        elif tenth > self._shown:
            print(line, file=sys.stderr, flush=True)
        self._shown = tenth

    def close(self) -> None:
        if sys.stderr.isatty():
            print(file=sys.stderr)


def _text(figures: dict[str, float]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:.5g}" for name, value in figures.items())
