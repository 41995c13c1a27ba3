"""A tree of arrays as one file: every array by the name of its path, so that nothing depends on the order of leaves.

The file is a NumPy `.npz` archive of the arrays and of a JSON header with the shape and the dtype of each. What NumPy
cannot name (bfloat16, random keys) is stored as unsigned integers. There is no pickle in it.
"""

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from bdl._paths import map_named, named_leaves

_FORMAT = "bdl-1"
_HEADER = "header"
_SHOWN = 12  # mismatches that an error lists


def write_tree(path: str | os.PathLike[str], tree: dict[str, Any], **notes: Any) -> None:
    """Write the array leaves of `tree` bit for bit, and `notes` (JSON) beside them; other leaves are left out.

    The file is there whole or not at all: whatever stops the writing, an older file of that name stays as it was.

    Raises:
        ValueError: two leaves have the same path name.
    """
    arrays = _arrays(tree)
    header = {
        "format": _FORMAT,
        "arrays": {name: describe(leaf) for name, leaf in arrays.items()},
        "keys": {name: str(jax.random.key_impl(leaf)) for name, leaf in arrays.items() if _is_key(leaf)},
        "notes": notes,
    }
    path = Path(path)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with unfinished.open("wb") as file:
            stored = {f"arrays/{name}": _to_numpy(leaf) for name, leaf in arrays.items()}
            np.savez(file, allow_pickle=False, **{_HEADER: np.array(json.dumps(header))}, **stored)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def read_notes(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The notes of a file.

    Raises:
        ValueError: it is not a file of `write_tree`, or not a whole one.
    """
    return _read(path, ())[0]["notes"]


def read_tree(path: str | os.PathLike[str], like: dict[str, Any]) -> dict[str, Any]:
    """The tree `like` with the arrays of the file.

    Args:
        path: of a file that `write_tree` wrote.
        like: a tree of the same structure; of its arrays only the shapes and the dtypes are looked at, so they may be
            `jax.ShapeDtypeStruct`s. What spreads over several devices is put where `like` has it.

    Raises:
        ValueError: the file is not a whole one, or its arrays are not those of `like`; the message lists the paths.
    """
    wanted = _arrays(like)
    header, arrays = _read(path, wanted)
    expected = {name: describe(leaf) for name, leaf in wanted.items()}
    found = header["arrays"]
    if expected != found:
        raise ValueError(_mismatch(path, expected, found))

    def fill(name: str, leaf: Any) -> Any:
        return _from_numpy(arrays[name], leaf, header["keys"].get(name)) if name in wanted else leaf

    return map_named(fill, like)


def describe(leaf: Any) -> str:
    """The dtype and the shape of an array: `float32[3, 2]`."""
    return f"{leaf.dtype}[{', '.join(map(str, leaf.shape))}]"


def _arrays(tree: Any) -> dict[str, Any]:
    count = sum(map(_is_array, jax.tree.leaves(tree)))
    arrays = {name: leaf for name, leaf in named_leaves(tree).items() if _is_array(leaf)}
    if len(arrays) < count:
        raise ValueError("two arrays have the same path name; do not write '/' in a name where the path also exists.")
    return arrays


def _is_array(leaf: Any) -> bool:
    return eqx.is_array(leaf) or isinstance(leaf, jax.ShapeDtypeStruct)


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _to_numpy(leaf: Any) -> np.ndarray:
    array = np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)
    return array if array.dtype.isbuiltin == 1 else array.view(f"u{array.dtype.itemsize}")


def _from_numpy(array: np.ndarray, like: Any, key_impl: str | None) -> Any:
    if key_impl is not None:
        leaf = jax.random.wrap_key_data(jnp.array(array), impl=key_impl)
    elif isinstance(like, np.ndarray | np.generic):
        return array.view(like.dtype)
    else:
        leaf = jnp.array(array.view(like.dtype))
    spread = isinstance(like, jax.Array) and len(like.sharding.device_set) > 1
    return jax.device_put(leaf, like.sharding) if spread else leaf


def _read(path: str | os.PathLike[str], names: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The header, and those of the arrays called `names` that are there."""
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            header = json.loads(file[_HEADER].item())
            if header["format"] != _FORMAT:
                raise ValueError(f"its format is {header['format']}, this version of bdl reads {_FORMAT}")
            return header, {name: file[f"arrays/{name}"] for name in names if name in header["arrays"]}
    except (ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{os.fspath(path)} is not a whole file of bdl ({error}). Was its writing cut short?"
        ) from error


def _mismatch(path: str | os.PathLike[str], expected: dict[str, str], found: dict[str, str]) -> str:
    lines = [
        f"  {name}: expected {expected.get(name, 'nothing')}, found {found.get(name, 'nothing')}"
        for name in expected | found
        if expected.get(name) != found.get(name)
    ]
    if len(lines) > _SHOWN:
        lines[_SHOWN:] = [f"  and {len(lines) - _SHOWN} more"]
    return (
        f"the arrays in {os.fspath(path)} are not those expected:\n"
        + "\n".join(lines)
        + "\nBuild what is expected as it was built when the file was written, or use another file."
    )
