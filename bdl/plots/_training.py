"""Pictures of a fit: its history, and what it made of each weight array."""

from typing import Any

import numpy as np

from bdl._family import is_family, mean_of
from bdl.fit import History
from bdl.plots._style import ACCENT, ALEATORIC, DOT, axes

_POINTS = 200  # of the line of running means


def history(history: History, *, figure: str = "elbo", ax: Any = None) -> Any:
    """A figure of a fit over its steps: each step in a light colour, the running mean over it.

    Held-out scores, where the fit took them, are dots with an axis of their own on the right, `ax.figure.axes[1]`. The
    lowest twentieth of the steps, as the first ones are, may lie below the frame.

    Args:
        history: of `bdl.fit`.
        figure: the name of the figure: "elbo", "log_likelihood", "kl", in nats for the whole data set, or
            "gradient_norm".
        ax: matplotlib axes; `None` for new ones.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: the history has no figure of that name; the message lists those it has.

    Example:
        >>> import jax, jax.numpy as jnp, optax, bdl, bdl.plots
        >>> network = bdl.network(lambda p, x: x @ p["w"], {"w": jnp.ones((1, 1))})
        >>> posterior, x = bdl.variational(network.params, bdl.families.normal(scale=0.1)), jnp.ones((8, 1))
        >>> model = bdl.Model(network, bdl.likelihoods.Normal(scale=0.5))
        >>> vi = bdl.inference.vi(optax.adam(1e-2))
        >>> fitted = bdl.fit(jax.random.key(0), vi, posterior, model, (x, 2 * x), num_steps=20, progress=False)
        >>> bdl.plots.history(fitted.history).get_ylabel()
        'elbo'
    """
    known = [name for name, value in vars(history.info).items() if np.ndim(value) == 1]
    if figure not in known:
        raise ValueError(f"plots: this history has no figure {figure!r}; it has {', '.join(known)}.")
    values = np.asarray(getattr(history.info, figure), np.float64)
    values = values[np.isfinite(values)]
    width = -(-len(values) // _POINTS)
    blocks = values[: len(values) // width * width].reshape(-1, width)

    ax = axes(ax)
    ax.plot(np.arange(1, len(values) + 1), values, color=ALEATORIC, alpha=0.6, lw=0.8, label="each step")
    if width > 1:
        ax.plot(width * np.arange(1, len(blocks) + 1) - width / 2, blocks.mean(1), color=ACCENT, lw=1.6, label="mean")
    low, high = np.quantile(values, 0.05), values.max()
    ax.set(xlabel="step", ylabel=figure.replace("_", " "), ylim=(low - 0.1 * (high - low), high + 0.1 * (high - low)))
    held_out = np.asarray(history.held_out)
    if held_out.size:
        right = ax.twinx()
        right.plot(np.asarray(history.held_out_steps), held_out, "o-", color=DOT, ms=4, lw=0.8, label="held out")
        right.set_ylabel("score on held-out data")
    return ax


def signal_to_noise(posterior: Any, *, ax: Any = None) -> Any:
    """|mean| / scale of the weights of each array that has a scale, as boxes over all of its weights.

    A weight below 1 is one whose sign the data have not told. The box holds half of the weights of an array, its line
    is the median, and its whiskers end at 5 % and 95 %. Arrays in which noise is 0, and point masses, have no box.

    Args:
        posterior: of `bdl.variational`, fitted.
        ax: matplotlib axes; `None` for new ones.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: no array of the posterior has a scale.

    Example:
        >>> import jax.numpy as jnp, bdl, bdl.plots
        >>> posterior = bdl.variational({"w": jnp.ones((3, 2))}, bdl.families.normal(scale=0.1))
        >>> [label.get_text() for label in bdl.plots.signal_to_noise(posterior).get_yticklabels()]
        ['w']
    """
    ratios = {path: _ratio(leaf) for path, leaf in posterior.leaves.items() if _has_scale(leaf)}
    ratios = {path: ratio[np.isfinite(ratio)] for path, ratio in ratios.items() if np.isfinite(ratio).any()}
    if not ratios:
        raise ValueError("plots: no weight array of this posterior has a scale; `bdl.plots.rates` shows dropout rates.")
    ax = axes(ax)
    boxes = [_box(path, ratio) for path, ratio in ratios.items()]
    ax.bxp(
        boxes, orientation="horizontal", showfliers=False, patch_artist=True,
        boxprops={"facecolor": ALEATORIC, "lw": 0}, medianprops={"color": DOT, "lw": 1.5},
    )  # fmt: skip
    ax.axvline(1.0, color="0.4", lw=1, ls="--")
    ax.set(xscale="log", xlabel="|mean| / scale")
    ax.invert_yaxis()  # the first array on top
    return ax


def rates(posterior: Any, *, ax: Any = None) -> Any:
    """The dropout rate of each array that has one, as dots: the share of draws in which a weight, or a row, is 0.

    Where an array has many rates (a rate for each row, or each weight) the dot is their mean and the line goes from
    their 5 % to their 95 % quantile.

    Args:
        posterior: of `bdl.variational`.
        ax: matplotlib axes; `None` for new ones.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: no array of the posterior has a rate.

    Example:
        >>> import jax.numpy as jnp, bdl, bdl.plots
        >>> posterior = bdl.variational({"w": jnp.ones((3, 2))}, bdl.families.bernoulli_dropout(rate=0.25))
        >>> float(bdl.plots.rates(posterior).collections[0].get_offsets()[0, 0])
        0.25
    """
    found = {p: np.ravel(np.asarray(leaf.rate)) for p, leaf in posterior.leaves.items() if hasattr(leaf, "rate")}
    if not found:
        raise ValueError("plots: no weight array of this posterior has a dropout rate.")
    rows = range(len(found))
    low, high = (np.array([np.quantile(rate, level) for rate in found.values()]) for level in (0.05, 0.95))

    ax = axes(ax)
    ax.scatter([rate.mean() for rate in found.values()], rows, color=ACCENT, zorder=3)
    ax.hlines(rows, low, high, color=ALEATORIC, lw=3)
    ax.set(
        yticks=rows, yticklabels=list(found), ylim=(-0.6, len(found) - 0.4), xlim=(-0.02, 1.02), xlabel="dropout rate"
    )
    ax.invert_yaxis()
    return ax


def _has_scale(leaf: Any) -> bool:
    return is_family(leaf) and (hasattr(leaf, "distribution") or hasattr(leaf, "scale"))


def _ratio(leaf: Any) -> np.ndarray:
    variance = leaf.distribution.variance if hasattr(leaf, "distribution") else leaf.scale**2
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.ravel(np.abs(np.asarray(mean_of(leaf), np.float32)) / np.sqrt(np.asarray(variance, np.float32)))


def _box(path: str, ratio: np.ndarray) -> dict[str, Any]:
    low, first, middle, third, high = np.quantile(np.maximum(ratio, 1e-6), [0.05, 0.25, 0.5, 0.75, 0.95])
    return {"label": path, "whislo": low, "q1": first, "med": middle, "q3": third, "whishi": high}
