"""A fitted posterior and its model in a file."""

import os
from typing import Any

from bdl._tree_file import read_tree, write_tree


def save(path: str | os.PathLike[str], posterior: Any, model: Any) -> None:
    """Write the arrays of a posterior and a model to one file, bit for bit.

    Code (the network's function, a likelihood) is not written: `load` takes it from objects built the same way. The
    file is a NumPy `.npz` archive, without pickle. It is replaced as a whole or not at all.

    Args:
        path: of the file, taken as it is.
        posterior: any posterior, such as `fitted.posterior`.
        model: the model it belongs to, such as `fitted.model`.

    Example:
        >>> import jax.numpy as jnp, bdl
        >>> network = bdl.network(lambda params, x: x @ params["w"], {"w": jnp.ones((3, 1))})
        >>> model = bdl.Model(network, bdl.likelihoods.Normal(scale=0.5))
        >>> posterior = bdl.variational(network.params, bdl.families.bernoulli_dropout(rate=0.1))
        >>> folder = getfixture("tmp_path")
        >>> bdl.save(folder / "posterior.npz", posterior, model)
        >>> fresh = bdl.variational({"w": jnp.zeros((3, 1))}, bdl.families.bernoulli_dropout(rate=0.5))
        >>> loaded, model = bdl.load(folder / "posterior.npz", like=(fresh, model))
        >>> round(float(loaded.tree["w"].rate), 3)
        0.1
    """
    write_tree(path, {"posterior": posterior, "model": model})


def load(path: str | os.PathLike[str], *, like: tuple[Any, Any]) -> tuple[Any, Any]:
    """The posterior and the model of a file that `save` wrote.

    Args:
        path: of the file.
        like: a posterior and a model built as those that were saved, in this process or another. Their arrays give way
            to those of the file; their code stays.

    Returns:
        posterior and model. Predictions with the same key are identical to those of what was saved.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file was cut short, or its arrays are not those of `like`; the message lists the paths, with
            the shapes and dtypes expected and found.
    """
    posterior, model = like
    tree = read_tree(path, {"posterior": posterior, "model": model})
    return tree["posterior"], tree["model"]
