"""Ratios of run times, measured in pairs.

Times of one run mean little on a machine that others use too. Reference and candidate alternate, and what counts is the
median of the ratios of neighbours.
"""

import argparse
import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

_PACKAGES = ("bdl", "jax", "jaxlib", "flax", "optax", "numpyro", "equinox", "numpy", "torch", "bayesian-torch")


@dataclasses.dataclass(frozen=True)
class Settings:
    """How long to measure."""

    fast: bool
    pairs: int
    clock: Callable[[], float] = time.perf_counter


@dataclasses.dataclass(frozen=True)
class Row:
    """A figure: candidate over reference, with the quartiles of the pairs; or why there is none."""

    figure: str
    goal: float | None = None
    ratio: float | None = None
    quartiles: tuple[float, float] | None = None
    reference: float | None = None  # the median
    unit: str = "s"
    skipped: str = ""

    def __str__(self) -> str:
        if self.skipped:
            return f"{self.figure:<46} skipped: {self.skipped}"
        low, high = self.quartiles or (self.ratio, self.ratio)
        text = f"{self.figure:<46} {self.ratio:7.3f}  [{low:.3f}, {high:.3f}]  of {self.reference:.4g} {self.unit}"
        if self.goal is None:
            return text
        return f"{text}  goal <= {self.goal:g}: {'met' if self.ratio <= self.goal else 'MISSED'}"


def compare(
    figure: str,
    reference: Callable[[], Any],
    candidate: Callable[[], Any],
    settings: Settings,
    goal: float | None = None,
) -> Row:
    """Run time of `candidate` over that of `reference`.

    Both return what they computed, which is waited for.
    """
    for function in (reference, candidate, reference, candidate):
        _seconds(function, settings.clock)
    times = np.array([_pair(reference, candidate, settings.clock, swap=i % 2 == 1) for i in range(settings.pairs)])
    ratios = times[:, 1] / times[:, 0]
    low, middle, high = (float(q) for q in np.quantile(ratios, (0.25, 0.5, 0.75)))
    return Row(figure, None if settings.fast else goal, middle, (low, high), float(np.median(times[:, 0])))


def _pair(
    reference: Callable[[], Any], candidate: Callable[[], Any], clock: Callable[[], float], swap: bool
) -> tuple[float, float]:
    if swap:
        late = _seconds(candidate, clock)
        return _seconds(reference, clock), late
    return _seconds(reference, clock), _seconds(candidate, clock)


def _seconds(function: Callable[[], Any], clock: Callable[[], float]) -> float:
    """The time of one call, until its result is there."""
    start = clock()
    jax.block_until_ready(function())
    return clock() - start


def _processor_time() -> float:
    """Seconds that all threads of this process, and the processes it started, have computed."""
    import resource

    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def rival(
    figure: str,
    modules: tuple[str, ...],
    reference: Callable[[], Any],
    build: Callable[[], Callable[[], Any]],
    settings: Settings,
) -> Row:
    """`compare` with what `build` makes, or the row that says which of `modules` it needs is not installed."""
    for module in modules:
        if importlib.util.find_spec(module) is None:
            return Row(figure, skipped=f"{module} is not installed (pip install {module.replace('_', '-')})")
    return compare(figure, reference, build(), settings)


def moments(outputs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and variance over the draws."""
    return outputs.mean(0), outputs.var(0)


def environment() -> dict[str, Any]:
    """What the figures were measured with."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    device = jax.devices()[0]
    return {
        "device": f"{jax.device_count()} x {device.device_kind} ({device.platform})",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load": os.getloadavg() if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "versions": found,
    }


def _processor() -> str:
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def run(description: str | None, rows: Callable[[Settings], Iterator[Row]]) -> None:
    """The command line of a benchmark: measure its rows, print them as they come, and write them as JSON."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fast", action="store_true", help="small sizes and few pairs: does it run at all")
    parser.add_argument("--pairs", type=int, help="pairs of reference and candidate (31; with --fast 3)")
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="compare the time that processors computed, not the time that passed: for a CPU that others use too",
    )
    parser.add_argument("--json", metavar="FILE", help="write the figures and what they were measured with to FILE")
    arguments = parser.parse_args()
    ticks = _processor_time if arguments.cpu_time else time.perf_counter
    settings = Settings(arguments.fast, arguments.pairs or (3 if arguments.fast else 31), ticks)
    about = environment()
    print("\n".join(f"# {name}: {value}" for name, value in about.items()), flush=True)
    if arguments.fast:
        print("# --fast: small sizes, for which there are no goals")
    clock = "processor" if arguments.cpu_time else "elapsed"
    print(f"# {clock} time, candidate over reference: median of {settings.pairs} pairs [quartiles]", flush=True)
    found = []
    for row in rows(settings):
        print(row, flush=True)
        found.append(dataclasses.asdict(row))
    if arguments.json:
        Path(arguments.json).write_text(
            json.dumps({**about, "fast": settings.fast, "clock": clock, "rows": found}, indent=2) + "\n"
        )
