"""The file from which an interrupted fit goes on."""

import os
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bdl._trail import Trail
from bdl._training import Run
from bdl._tree_file import read_notes, read_tree, write_tree

_SECONDS = 10.0  # between two writings, at least
_SHARE = 0.05  # of the time that writing may take, at most


class Checkpoint:
    """A file that holds the trail of one fit.

    Args:
        path: of the file; it need not exist.
        settings: what must be the same for a fit to go on, by the name of the argument.
    """

    def __init__(self, path: str | os.PathLike[str], **settings: Any):
        self._path = Path(path)
        self._settings = settings
        self._due = time.perf_counter() + _SECONDS

    def restore(self, run: Run, infos: Any, num_steps: int) -> Trail:
        """The trail in the file, or a new one that begins with `run`.

        Args:
            run: as the fit would start.
            infos: the shapes of a step's infos.
            num_steps: that the fit is to have in all.

        Raises:
            ValueError: the file is damaged, of more steps, or of a fit with other settings or another structure.
        """
        if not self._path.exists():
            return Trail(run)
        notes = read_notes(self._path)
        found = notes.get("settings")
        if found is None:
            raise ValueError(f"{self._path} is no checkpoint of a fit; `bdl.load` reads what `bdl.save` wrote.")
        for name, value in self._settings.items():
            if found[name] != value:
                raise ValueError(
                    f"the checkpoint {self._path} is of a fit with {name}={found[name]}, this one has {name}={value}. "
                    "Set it as it was to go on, or give another path to start anew."
                )
        step = notes["step"]
        if step > num_steps:
            raise ValueError(f"the checkpoint {self._path} is of {step} steps, more than num_steps={num_steps}.")
        longer = jax.tree.map(lambda a: jax.ShapeDtypeStruct((step, *a.shape), np.float32), infos)
        tree = read_tree(self._path, {"run": run, "infos": longer})
        told = jax.tree.map(np.asarray, tree["infos"])
        return Trail(tree["run"], step, [told], looks=[tuple(look) for look in notes["looks"]])

    def save(self, trail: Trail) -> None:
        """Write the trail, in place of what the file held before; nothing before the first step."""
        trail.fetch()
        if trail.step == 0:
            return
        start = time.perf_counter()
        tree = {"run": trail.run, "infos": trail.infos()}
        write_tree(self._path, tree, settings=self._settings, step=trail.step, looks=trail.looks)
        end = time.perf_counter()
        self._due = end + max(_SECONDS, (end - start) / _SHARE)

    def save_if_due(self, trail: Trail) -> None:
        """Write the trail if it has been a while."""
        if time.perf_counter() >= self._due:
            self.save(trail)
