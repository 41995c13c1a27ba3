"""Pictures of the prediction of a classification: probabilities, and entropies in their two parts."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bdl.plots._style import ALEATORIC, DOT, EPISTEMIC, axes, named
from bdl.uncertainty import ClassPrediction


def probabilities(
    prediction: ClassPrediction, index: int = 0, *, classes: Sequence[Any] | None = None, ax: Any = None
) -> Any:
    """The class probabilities of one input as bars, with whiskers of ± 1 standard deviation over draws of the weights.

    Args:
        prediction: of inputs [N].
        index: which of the inputs.
        classes: the names of the K classes; `None` for 0 to K − 1.
        ax: matplotlib axes; `None` for new ones.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: there are not as many names as classes.

    Example:
        >>> import jax, jax.numpy as jnp, bdl, bdl.plots
        >>> network = bdl.network(lambda p, x: x @ p["w"], {"w": jnp.ones((2, 3))})
        >>> posterior = bdl.variational(network.params, bdl.families.normal(scale=1.0))
        >>> model = bdl.Model(network, bdl.likelihoods.Categorical())
        >>> prediction = bdl.predict(jax.random.key(0), posterior, model, jnp.ones((1, 2)), num_samples=100)
        >>> ax = bdl.plots.probabilities(prediction, classes=["ant", "bee", "cow"])
        >>> [label.get_text() for label in ax.get_xticklabels()]
        ['ant', 'bee', 'cow']
    """
    probs = np.asarray(prediction.probs)[index]
    # standard_error = std / √S
    std = np.asarray(prediction.standard_error)[index] * np.sqrt(prediction.num_samples)
    whiskers = np.stack([np.minimum(std, probs), np.minimum(std, 1 - probs)])  # that end at 0 and at 1
    names = named("classes", classes, len(probs))

    ax = axes(ax)
    ax.bar(range(len(probs)), probs, color=ALEATORIC, yerr=whiskers, ecolor=DOT, capsize=2.5)
    ax.set(xticks=range(len(probs)), xticklabels=names, ylim=(0, 1.02), ylabel="probability")
    return ax


def uncertainty(prediction: ClassPrediction, *, names: Sequence[Any] | None = None, ax: Any = None) -> Any:
    """The entropy of each input as a bar of two parts, the aleatoric and the epistemic one, in nats.

    Args:
        prediction: of inputs [N].
        names: of the inputs; `None` for 0 to N − 1.
        ax: matplotlib axes; `None` for new ones.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: there are not as many names as inputs.

    Example:
        >>> import jax, jax.numpy as jnp, bdl, bdl.plots
        >>> network = bdl.network(lambda p, x: x @ p["w"], {"w": jnp.ones((2, 3))})
        >>> posterior = bdl.variational(network.params, bdl.families.normal(scale=1.0))
        >>> model = bdl.Model(network, bdl.likelihoods.Categorical())
        >>> prediction = bdl.predict(jax.random.key(0), posterior, model, jnp.ones((2, 2)), num_samples=100)
        >>> bdl.plots.uncertainty(prediction, names=["first", "second"]).get_xlabel()
        'entropy [nats]'
    """
    aleatoric, epistemic = np.asarray(prediction.aleatoric), np.asarray(prediction.epistemic)
    rows = range(len(aleatoric))
    names = named("names", names, len(rows))

    ax = axes(ax)
    ax.barh(rows, aleatoric, color=ALEATORIC, label="aleatoric: expected entropy")
    ax.barh(rows, epistemic, left=aleatoric, color=EPISTEMIC, hatch="//", label="epistemic: mutual information")
    ax.set(yticks=rows, yticklabels=names, xlabel="entropy [nats]")
    ax.invert_yaxis()  # the first input on top
    return ax
