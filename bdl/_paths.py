"""Paths of the arrays in a tree of nested dicts, and globs over them."""

import fnmatch
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax


def named_leaves(tree: Any, is_leaf: Callable[[Any], bool] | None = None) -> dict[str, Any]:
    """The leaves of `tree` by their path, `"Dense_0/kernel"`, in the order of `jax.tree.leaves`."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_leaf)
    return {_join(path): leaf for path, leaf in leaves}


def map_named(function: Callable[..., Any], tree: Any, *rest: Any, is_leaf: Callable[[Any], bool] | None = None) -> Any:
    """`jax.tree.map` for a function of (path, leaf, ...)."""
    return jax.tree_util.tree_map_with_path(
        lambda path, *leaves: function(_join(path), *leaves), tree, *rest, is_leaf=is_leaf
    )


def match(globs: Mapping[str, Any], paths: Iterable[str], what: str) -> dict[str, Any]:
    """The value of the first glob, in the mapping's order, that matches each path; paths without one are left out.

    Args:
        globs: values by glob, as in `fnmatch`: `*` crosses `/`.
        paths: the paths of the arrays.
        what: what the globs are for, named in the error.

    Raises:
        ValueError: a glob matches no path; the message lists the paths.
    """
    paths = list(paths)
    for glob in globs:
        if not any(fnmatch.fnmatchcase(path, glob) for path in paths):
            raise ValueError(
                f"{what}: the glob {glob!r} matches no parameter; the paths are {', '.join(paths) or '(none)'}. "
                "Correct the glob, or take the entry out."
            )
    first = {path: next((g for g in globs if fnmatch.fnmatchcase(path, g)), None) for path in paths}
    return {path: globs[glob] for path, glob in first.items() if glob is not None}


def stable_hash(name: str) -> int:
    """A hash that is the same in every process, unlike `hash`."""
    return zlib.crc32(name.encode())


def _join(path: tuple[Any, ...]) -> str:
    return "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)
