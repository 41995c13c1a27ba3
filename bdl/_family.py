"""What may be asked of a leaf of a posterior: is it a family, what is its mean, how many members it has."""

from typing import Any


def is_family(node: Any) -> bool:
    """Whether a leaf of a posterior is a family, and not a plain array (a point mass)."""
    return _has(node, "sample") and _has(node, "mean")


def mean_of(leaf: Any) -> Any:
    """The mean of a leaf of a posterior: a family's, or the plain array of a point mass itself."""
    return leaf.mean if is_family(leaf) else leaf


def num_members(leaf: Any) -> int:
    """K, where the array is one of K that belong to K networks; 1 otherwise."""
    members: int = getattr(leaf, "members", 1)
    return members


def _has(node: Any, name: str) -> bool:
    # `hasattr` would compute a property.
    return hasattr(type(node), name) or name in getattr(node, "__dict__", ())
