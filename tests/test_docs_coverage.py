"""Every public name has a docstring and stands in the API pages."""

import functools
import importlib
import inspect
import re
import types
from pathlib import Path

import pytest

import bdl

API = Path(__file__).parents[1] / "docs" / "api"
SOURCE = Path(bdl.__file__).parent
# Rooms, and those inside of a room.
FILES = [file for file in SOURCE.rglob("*.py") if not file.stem.startswith("_") or file.stem == "__init__"]
NAMES = [file.relative_to(SOURCE).with_suffix("").parts for file in FILES]
ROOMS = sorted(".".join(["bdl", *(part for part in parts if part != "__init__")]) for parts in NAMES)


def public() -> dict[str, object]:
    """Objects of `__all__` of the root and of every room, folder or file, less the rooms themselves."""
    modules = [importlib.import_module(name) for name in ROOMS]
    named = {f"{m.__name__}.{name}": getattr(m, name) for m in modules for name in getattr(m, "__all__", ())}
    return {name: value for name, value in named.items() if not isinstance(value, types.ModuleType)}


@functools.cache
def documented() -> dict[str, object]:
    """What the `:::` lines of the API pages name, by their identifiers."""
    lines = "\n".join(page.read_text() for page in API.glob("*.md"))
    return {name: resolve(name) for name in re.findall(r"^::: (\S+)", lines, re.MULTILINE)}


def resolve(identifier: str) -> object:
    module, _, name = identifier.rpartition(".")
    return getattr(importlib.import_module(module), name)


@pytest.mark.parametrize("name", sorted(public()))
def test_name_is_documented(name):
    value = public()[name]
    assert any(value is other for other in documented().values()), (
        f"{name} is in __all__ but in no page of docs/api; add a line `::: {name}`"
    )
    assert inspect.getdoc(value), f"{name} has no docstring"


def test_nothing_private_is_documented():
    known = list(public().values())
    assert not [name for name, value in documented().items() if not any(value is other for other in known)]
