"""Pictures of the prediction of a regression along one input, and of what was observed."""

from typing import Any

import numpy as np

from bdl.plots._style import ALEATORIC, DOT, EPISTEMIC, MISS, Z, axes, one_column
from bdl.uncertainty import Prediction

_FOLLOWED = 5  # functions drawn dark


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
    x, mean, epistemic, variance = one_column(column, x, prediction.mean, prediction.epistemic, prediction.variance)
    order = np.argsort(x)
    x, mean, inner, outer = x[order], mean[order], Z * np.sqrt(epistemic[order]), Z * np.sqrt(variance[order])

    ax = axes(ax)
    ax.plot(x, mean, color=DOT, lw=1.8, label="mean", zorder=3)
    ax.fill_between(x, mean - inner, mean + inner, color=EPISTEMIC, lw=0, label="95 % for the mean: epistemic")
    for sign, label in ((-1, "95 % for an observation: + aleatoric"), (1, None)):
        ax.fill_between(x, mean + sign * inner, mean + sign * outer, color=ALEATORIC, alpha=0.5, lw=0, label=label)
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

    ax = axes(ax)
    many = max(0.08, min(0.7, 25 / len(lines)))  # opacity, so that hundreds of lines still show their density
    for index, line in enumerate(lines):
        first = index < _FOLLOWED
        style = {"color": DOT, "lw": 1.1, "zorder": 3} if first else {"color": ALEATORIC, "alpha": many, "lw": 0.9}
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
    y, mean, variance = one_column(column, y, prediction.mean, prediction.variance)
    bars = Z * np.sqrt(variance)
    missed = np.abs(y - mean) > bars

    ax = axes(ax)
    for rows, style, where in ((~missed, (DOT, "o", 16), "observed inside"), (missed, (MISS, "X", 40), "outside")):
        colour, marker, size = style
        label = f"{rows.sum()} of {len(y)} {where}"
        ax.scatter(mean[rows], y[rows], s=size, color=colour, marker=marker, lw=0, label=label, zorder=3)
    ax.errorbar(mean, mean, yerr=bars, fmt="none", ecolor=ALEATORIC, alpha=0.6, label="95 % interval", zorder=1)
    ax.axline((mean.mean(), mean.mean()), slope=1, color="0.4", lw=1, ls="--", label="observed = predicted", zorder=2)
    return ax
