"""What the command lines of the long benchmarks share: help, the data, results that are not lost."""

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np


def parser(description: str | None, data: str) -> argparse.ArgumentParser:
    """A parser whose help is the module's docstring, with `--data`, the folder `data` of $BDL_DATA by default."""
    summary, _, rest = (description or "").partition("\n")
    made = argparse.ArgumentParser(
        description=summary, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    folder = os.environ.get("BDL_DATA")
    made.add_argument("--data", type=Path, default=folder and Path(folder) / data, help=f"default: $BDL_DATA/{data}")
    made.set_defaults(folder=data)
    return made


def parse(made: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments; ends the program where there is no folder of the data."""
    arguments = made.parse_args(argv)
    if arguments.data is None:
        made.error(f"pass --data DIR, or set BDL_DATA to the folder above `{arguments.folder}`")
    return arguments


def arrays(path: Path, *names: str) -> dict[str, np.ndarray]:
    """The arrays of a file, or those of these names; ends the program where there is no file."""
    if not path.is_file():
        raise SystemExit(f"no file {path}: pass --data DIR or set BDL_DATA to the folder above `{path.parent.name}`.")
    with np.load(path) as file:
        return {name: file[name] for name in names or file}


def grey_images(pixels: np.ndarray) -> np.ndarray:
    """Images [N, 28, 28, 1] in [0, 1], float32, of pixels from 0 to 255."""
    return (pixels.reshape(-1, 28, 28, 1) / 255).astype(np.float32)


def table(rows: dict[str, dict[str, float]], number: str = ".4f") -> str:
    """The rows of a study as Markdown, numbers in the format `number`."""
    names = list(next(iter(rows.values())))
    lines = ["| | " + " | ".join(name.replace("_", " ") for name in names) + " |", "|---" * (len(names) + 1) + "|"]
    for label, row in rows.items():
        lines.append(f"| {label} | " + " | ".join(f"{row[name]:{number}}" for name in names) + " |")
    return "\n".join(lines)


def settings(arguments: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Those of the arguments on which the numbers depend."""
    return {name: getattr(arguments, name) for name in names}


class Results(dict[str, Any]):
    """Results as they come: what `folder/name` has already, and `save()`. Without a folder nothing is kept."""

    def __init__(self, folder: Path | None, name: str):
        self.file = folder and folder / name
        super().__init__(json.loads(self.file.read_text()) if self.file and self.file.is_file() else {})

    def has(self, label: str, settings: dict[str, Any]) -> bool:
        """Whether `label` is there already, so that it need not run; its settings are kept under "settings".

        Ends the program where it was run with others: its numbers would pass for those of these settings.
        """
        settings = json.loads(json.dumps(settings))
        known = self.setdefault("settings", {})
        if label not in self:
            known[label] = settings
        elif label in known:
            self.check_same(label, known[label], settings)
        return label in self

    def check_same(self, label: str, known: dict[str, Any], settings: dict[str, Any]) -> None:
        """End the program where `label`, which is there, was run with other settings than these."""
        keys = [k for k in known | settings if known.get(k) != settings.get(k)]
        if keys:
            before, changed = ({k: given.get(k) for k in keys} for given in (known, settings))
            raise SystemExit(
                f"{label}: {self.file} has it with {before}, and this run has {changed}: pass another folder as "
                "--output, or the same settings."
            )

    def save(self) -> None:
        if self.file:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self.file.write_text(json.dumps(self, indent=1) + "\n")
