"""A fit as seen from outside its compiled blocks: the run, and what its steps told."""

import dataclasses
from typing import Any

import jax
import numpy as np

from bdl._training import Run


@dataclasses.dataclass
class Trail:
    """The run and what led to it.

    Attributes:
        run: as it is now.
        step: the steps that are known to be done.
        told: their infos, NumPy arrays with the steps along axis 0, a tree per block.
        pending: infos of steps that the device may still be at work on; there may be room behind them.
        looks: (step, score) of each look at held-out data.
    """

    run: Run
    step: int = 0
    told: list[Any] = dataclasses.field(default_factory=list)
    pending: list[Any] = dataclasses.field(default_factory=list)
    looks: list[tuple[int, float]] = dataclasses.field(default_factory=list)

    def add(self, run: Run, infos: Any) -> None:
        """Go on to `run`, whose steps may still be pending."""
        # One statement, so that Ctrl-C finds all of it or nothing.
        self.run, self.pending = run, [*self.pending, infos]

    def fetch(self) -> None:
        """Wait for the device."""
        if self.pending:
            step = int(self.run.step)
            infos = _join([jax.tree.map(lambda a: np.atleast_1d(np.asarray(a)), infos) for infos in self.pending])
            infos = jax.tree.map(lambda a: a[: step - self.step], infos)
            self.step, self.told, self.pending = step, [*self.told, infos], []

    def infos(self) -> Any:
        """The infos of all steps done."""
        return _join(self.told)

    @property
    def alive(self) -> bool:
        """Whether the run goes on."""
        return bool(self.run.alive)


def _join(trees: list[Any]) -> Any:
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), *trees)
