"""Pictures of predictions: predictions and arrays in, matplotlib axes out.

Each function draws on `ax`, or on the axes of a new figure, and returns it: titles, units and limits are yours. Colours
are those of Okabe and Ito, which the colour-blind tell apart.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bdl.uncertainty import ClassPrediction, Prediction

__all__ = ["activation_map", "bands", "functions", "intervals", "probabilities", "uncertainty"]

_ALEATORIC, _EPISTEMIC, _DOT, _MISS = "#56B4E9", "#E69F00", "#000000", "#D55E00"
_FOLLOWED = 5  # functions drawn dark
_Z = 1.96  # standard deviations to each side that hold 95 % of a Normal


def activation_map(image: Any, values: Any, *, spread: bool = False, limit: float | None = None, ax: Any = None) -> Any:
    """A map of activations over its image in grey: where it is 0 the image shows, where it is large the colour.

    Red is for the class and blue against it. `ax.images[1]` is the map, for a colour bar.

    Args:
        image: [H, W] or [H, W, C], of which the mean over C is shown.
        values: a map [h, w] of any size, stretched over the image: `maps.mean[n, ..., c]` of `bdl.activation_maps`.
        spread: whether it is a standard deviation, which has one colour.
        limit: the value of the full colour; the largest one, in size, where `None`. Give maps that are to be compared
            the same limit.
        ax: matplotlib axes; `None` for new ones.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: the map is not [h, w].

    Example:
        >>> import numpy as np, bdl.plots
        >>> ax = bdl.plots.activation_map(np.ones((8, 12)), np.array([[-1.0, 2.0]]))
        >>> ax.images[1].get_clim(), ax.images[1].get_extent()
        ((-2.0, 2.0), [-0.5, 11.5, 7.5, -0.5])
    """
    image, values = np.asarray(image), np.asarray(values)
    if values.ndim != 2 or image.ndim not in (2, 3):
        raise ValueError(
            f"plots: expected a map [h, w] of an image [H, W] or [H, W, C], got shapes {values.shape} and "
            f"{image.shape}. One map of several is `maps.mean[n, ..., c]`."
        )
    image = image if image.ndim == 2 else image.mean(-1)
    limit = float(limit or np.abs(values).max() or 1.0)
    height, width = image.shape

    ax = _axes(ax)
    ax.imshow(image, cmap="gray")
    ax.imshow(
        values, extent=(-0.5, width - 0.5, height - 0.5, -0.5), interpolation="bilinear",
        cmap="Oranges" if spread else "RdBu_r", vmin=0 if spread else -limit, vmax=limit,
        alpha=np.clip(np.abs(values) / limit, 0, 1) ** 0.5 * 0.85,
    )  # fmt: skip
    ax.set(xticks=[], yticks=[])
    return ax


def bands(x: Any, prediction: Prediction, *, column: int = 0, ax: Any = None) -> Any:
    """The predictive mean along one input, between ± 1.96 √epistemic and, further out, ± 1.96 √variance.

    Were all Normal, the first band would hold 95 % of the draws of the mean, the second 95 % of the observations.

    Args:
        x: that input, [N], in any order.
        prediction: at these inputs, [N] or [N, K].
        column: which of the K targets.
        ax: matplotlib axes; `None` for new ones.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: there are not as many inputs as predictions.

    Example:
        >>> import jax, jax.numpy as jnp, bdl, bdl.plots
        >>> network = bdl.network(lambda p, x: x @ p["w"], {"w": jnp.ones((1, 1))})
        >>> posterior = bdl.variational(network.params, bdl.families.normal(scale=0.1))
        >>> model = bdl.Model(network, bdl.likelihoods.Normal(scale=0.5))
        >>> x = jnp.linspace(-2, 2, 50)
        >>> prediction = bdl.predict(jax.random.key(0), posterior, model, x[:, None], num_samples=100)
        >>> bdl.plots.bands(x, prediction).get_legend_handles_labels()[1]
        ['mean', '95 % for the mean: epistemic', '95 % for an observation: + aleatoric']
    """
    x, mean, epistemic, variance = _columns(column, x, prediction.mean, prediction.epistemic, prediction.variance)
    order = np.argsort(x)
    x, mean, inner, outer = x[order], mean[order], _Z * np.sqrt(epistemic[order]), _Z * np.sqrt(variance[order])

    ax = _axes(ax)
    ax.plot(x, mean, color=_DOT, lw=1.8, label="mean", zorder=3)
    ax.fill_between(x, mean - inner, mean + inner, color=_EPISTEMIC, lw=0, label="95 % for the mean: epistemic")
    for sign, label in ((-1, "95 % for an observation: + aleatoric"), (1, None)):
        ax.fill_between(x, mean + sign * inner, mean + sign * outer, color=_ALEATORIC, alpha=0.5, lw=0, label=label)
    return ax


def functions(x: Any, draws: Any, *, column: int = 0, ax: Any = None) -> Any:
    """Draws of the network's outputs along one input, a line for each: functions of the prior, or of a posterior.

    Five of them are dark, so that the eye can follow what one function does; the rest shows where functions go.

    Args:
        x: that input, [N], in any order; close enough together for lines to be smooth.
        draws: outputs at these inputs, [S, N] or [S, N, K], such as `prediction.draws` of `return_draws=True`.
        column: which of the K outputs.
        ax: matplotlib axes; `None` for new ones.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: the draws are not [S, N] or [S, N, K] for as many inputs.

    Example:
        >>> import jax, jax.numpy as jnp, bdl, bdl.plots
        >>> network = bdl.network(lambda p, x: jnp.sin(x @ p["w"]), {"w": jnp.ones((1, 1))})
        >>> model = bdl.Model(network, bdl.likelihoods.Normal(scale=0.5))
        >>> x = jnp.linspace(-2, 2, 50)
        >>> prior = bdl.prior_predictive(jax.random.key(0), model, x[:, None], num_samples=30, return_draws=True)
        >>> len(bdl.plots.functions(x, prior.draws).lines)
        30
    """
    x, draws = np.ravel(np.asarray(x)), np.asarray(draws)
    lines = draws[..., column] if draws.ndim == 3 else draws
    if lines.ndim != 2 or lines.shape[1] != len(x):
        raise ValueError(
            f"plots: expected draws of shape [S, {len(x)}] or [S, {len(x)}, K] for {len(x)} inputs, got {draws.shape}. "
            "`bdl.predict(..., return_draws=True).draws` has it."
        )
    order = np.argsort(x)

    ax = _axes(ax)
    many = max(0.08, min(0.7, 25 / len(lines)))  # opacity, so that hundreds of lines still show their density
    for index, line in enumerate(lines):
        first = index < _FOLLOWED
        style = {"color": _DOT, "lw": 1.1, "zorder": 3} if first else {"color": _ALEATORIC, "alpha": many, "lw": 0.9}
        label = {0: "some of them", _FOLLOWED: f"{len(lines)} draws of the function"}.get(index)
        ax.plot(x[order], line[order], label=label, **style)
    return ax


def intervals(y: Any, prediction: Prediction, *, column: int = 0, ax: Any = None) -> Any:
    """What was observed against what was predicted, with 95 % intervals: mean ± 1.96 √variance.

    An interval stands around the diagonal at its mean; of calibrated ones about 95 % hold their observation.

    Args:
        y: the targets observed, [N] or [N, K], in the prediction's units.
        prediction: of these targets.
        column: which of the K targets.
        ax: matplotlib axes; `None` for new ones.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: there are not as many targets as predictions.

    Example:
        >>> import jax, jax.numpy as jnp, bdl, bdl.plots
        >>> network = bdl.network(lambda p, x: x @ p["w"], {"w": jnp.ones((1, 1))})
        >>> posterior = bdl.variational(network.params, bdl.families.normal(scale=0.1))
        >>> model = bdl.Model(network, bdl.likelihoods.Normal(scale=0.5))
        >>> x = jnp.linspace(-2, 2, 5)[:, None]
        >>> prediction = bdl.predict(jax.random.key(0), posterior, model, x, num_samples=100)
        >>> ax = bdl.plots.intervals(x + jnp.array([[0.0], [0.0], [0.0], [0.0], [9.0]]), prediction)
        >>> ax.get_legend_handles_labels()[1]
        ['4 of 5 observed inside', '1 of 5 outside', 'observed = predicted', '95 % interval']
    """
    y, mean, variance = _columns(column, y, prediction.mean, prediction.variance)
    bars = _Z * np.sqrt(variance)
    missed = np.abs(y - mean) > bars

    ax = _axes(ax)
    for rows, style, where in ((~missed, (_DOT, "o", 16), "observed inside"), (missed, (_MISS, "X", 40), "outside")):
        colour, marker, size = style
        label = f"{rows.sum()} of {len(y)} {where}"
        ax.scatter(mean[rows], y[rows], s=size, color=colour, marker=marker, lw=0, label=label, zorder=3)
    ax.errorbar(mean, mean, yerr=bars, fmt="none", ecolor=_ALEATORIC, alpha=0.6, label="95 % interval", zorder=1)
    ax.axline((mean.mean(), mean.mean()), slope=1, color="0.4", lw=1, ls="--", label="observed = predicted", zorder=2)
    return ax


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
    names = _names("classes", classes, len(probs))

    ax = _axes(ax)
    ax.bar(range(len(probs)), probs, color=_ALEATORIC, yerr=whiskers, ecolor=_DOT, capsize=2.5)
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
    names = _names("names", names, len(rows))

    ax = _axes(ax)
    ax.barh(rows, aleatoric, color=_ALEATORIC, label="aleatoric: expected entropy")
    ax.barh(rows, epistemic, left=aleatoric, color=_EPISTEMIC, hatch="//", label="epistemic: mutual information")
    ax.set(yticks=rows, yticklabels=names, xlabel="entropy [nats]")
    ax.invert_yaxis()  # the first input on top
    return ax


def _axes(ax: Any) -> Any:
    if ax is not None:
        return ax
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("bdl.plots needs matplotlib: pip install 'bdl[plots]'.") from error
    return plt.subplots(layout="constrained")[1]


def _columns(column: int, *arrays: Any) -> list[np.ndarray]:
    """One column of each array, [N]."""
    columns = [a[:, column] if a.ndim == 2 else a.ravel() for a in map(np.asarray, arrays)]
    if len({len(a) for a in columns}) > 1:
        shapes = [np.shape(a) for a in arrays[:2]]
        raise ValueError(f"plots: expected as many values as predictions, got shapes {shapes[0]} and {shapes[1]}.")
    return columns


def _names(argument: str, names: Sequence[Any] | None, count: int) -> list[str]:
    """`names` as strings, or 0 to `count` − 1."""
    names = range(count) if names is None else names
    if len(names) != count:
        raise ValueError(f"plots: expected {count} {argument}, one for each bar, got {len(names)}: {list(names)}.")
    return [str(name) for name in names]
