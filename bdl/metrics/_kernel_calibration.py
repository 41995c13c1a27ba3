"""The kernel calibration error of class probabilities, and its test."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bdl._data_checks import is_traced
from bdl._keys import derive
from bdl.metrics._checks import classes

_ALL_PAIRS = 20_000  # examples, of which all pairs are computed in seconds
_TILE = 256  # rows of the kernel matrix at once
_GROUP = 4096  # examples of small blocks at once
_DRAWS = 32  # draws of labels at once, fewer of
_NUMBERS = 2**23  # probabilities times draws
_MEDIAN_OF = 1000  # examples whose distances give the bandwidth


def kernel_calibration_error(
    probs: Any, labels: Any, *, block_size: int | None = None, bandwidth: Any = None, mask: Any = None
) -> jax.Array:
    """The squared kernel calibration error, without bias (lower is better; 0 on average if calibrated):

        SKCE = 1/#pairs Σ_{i<j} exp(−‖pᵢ − pⱼ‖₂ / ν) ⟨[yᵢ] − pᵢ, [yⱼ] − pⱼ⟩,    [y] the one-hot vector of y.

    It sees all of the probabilities, not the largest one, and has no bins. Being without bias it falls below 0 for
    about half of the calibrated predictors. All examples are needed at once: it does not stream.

    Args:
        probs: [..., K], rows that sum to 1.
        labels: [...], integers in 0, …, K − 1.
        block_size: takes the pairs within consecutive blocks of so many examples, in time N · block_size: for large N,
            and shuffled examples. 2 is the linear estimator. `None` for all pairs, in N² time. Memory is bounded.
        bandwidth: ν, above 0; `None` for the median distance between up to 1,000 examples, evenly spaced, or 1 where
            that is 0.
        mask: bool [...], True where an example counts.

    Returns:
        A number, float32.

    Raises:
        ValueError: shapes, probabilities or labels that are none, fewer than two examples, all pairs of more than
            20,000, or a block size or a bandwidth that is none.

    Example:
        >>> import jax.numpy as jnp, bdl.metrics
        >>> probs = jnp.array([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9]])
        >>> print(f"{bdl.metrics.kernel_calibration_error(probs, jnp.array([1, 1, 1]), bandwidth=1.0):.3f}")
        0.579

    Reference:
        Widmann, Lindsten and Zachariah (2019), Calibration tests in multi-class classification: a unifying framework,
        https://arxiv.org/abs/1910.11385
    """
    probs, labels, weights, size, nu = _enter("kernel_calibration_error", probs, labels, block_size, bandwidth, mask)
    return _error(probs, labels, weights, nu, size)


def kernel_calibration_test(
    key: Any,
    probs: Any,
    labels: Any,
    *,
    num_draws: int = 1000,
    block_size: int | None = None,
    bandwidth: Any = None,
    mask: Any = None,
) -> jax.Array:
    """The p-value of calibration (from 0 to 1; small where the predictor is not calibrated):

        (1 + #{SKCEᵣ ≥ SKCE}) / (1 + R),

    where the SKCEᵣ are those of labels drawn from the probabilities, a parametric bootstrap. Of independent examples
    the test is exact for any N: a calibrated predictor gets a p-value of at most p with a probability of at most p. It
    tests that P(y | probs) = probs for all classes. The cost is that of `kernel_calibration_error`, R times.

    Args:
        key: one random key.
        probs: [..., K], rows that sum to 1.
        labels: [...], integers in 0, …, K − 1.
        num_draws: R, of all labels.
        block_size: as of `kernel_calibration_error`; pairs in blocks see less.
        bandwidth: likewise.
        mask: bool [...], True where an example counts.

    Returns:
        A number, float32.

    Raises:
        ValueError: as of `kernel_calibration_error`, or `num_draws` below 1.

    Example:
        >>> import jax, jax.numpy as jnp, bdl.metrics
        >>> probs = jnp.full((40, 2), 0.5)
        >>> half = bdl.metrics.kernel_calibration_test(jax.random.key(0), probs, jnp.arange(40) % 2)
        >>> always = bdl.metrics.kernel_calibration_test(jax.random.key(0), probs, jnp.zeros(40, int))
        >>> bool(half > 0.5), bool(always < 0.01)
        (True, True)

    Reference:
        Widmann, Lindsten and Zachariah (2019), https://arxiv.org/abs/1910.11385; labels drawn from the predictions:
        Bröcker and Smith (2007), https://doi.org/10.1175/WAF993.1, Vaicenavicius et al. (2019), Evaluating model
        calibration in classification, https://arxiv.org/abs/1902.06977
    """
    key = derive(key, "kernel_calibration_test")
    if num_draws < 1:
        raise ValueError(f"kernel_calibration_test: expected num_draws of at least 1, got {num_draws}.")
    probs, labels, weights, size, nu = _enter("kernel_calibration_test", probs, labels, block_size, bandwidth, mask)
    return _p_value(key, probs, labels, weights, nu, size, num_draws)


def _enter(name: str, probs: Any, labels: Any, block_size: int | None, bandwidth: Any, mask: Any) -> tuple[Any, ...]:
    """Checked: probabilities [N, K], labels [N], weights [N], those that count first, block size and bandwidth."""
    probs, labels, weights = classes(name, probs, labels, mask)
    num = labels.size
    if num < 2 or not (is_traced(weights) or np.count_nonzero(weights) > 1):
        raise ValueError(f"{name}: expected at least two examples that count, as it is a mean over pairs.")
    if block_size is None and num > _ALL_PAIRS:
        raise ValueError(
            f"{name}: all pairs of {num:,} examples are {num * num:.1e} kernel values. Pass block_size=64, of shuffled "
            f"examples, or block_size={num} to compute them all."
        )
    if block_size is not None and block_size < 2:
        raise ValueError(f"{name}: expected block_size of at least 2, got {block_size}. 2 is the linear estimator.")
    if bandwidth is not None and not is_traced(bandwidth) and not (np.ndim(bandwidth) == 0 and bandwidth > 0):
        raise ValueError(f"{name}: expected one bandwidth above 0, got {bandwidth}. `None` is the median distance.")
    given = None if bandwidth is None else jnp.asarray(bandwidth).astype(jnp.float32)
    found = _prepare(probs, labels, weights, given, mask is not None)
    return *found[:3], min(block_size or num, num), found[3]


@functools.partial(jax.jit, static_argnames="masked")
def _prepare(probs: Any, labels: Any, weights: Any, bandwidth: Any, masked: bool) -> tuple[jax.Array, ...]:
    probs, labels, weights = probs.reshape(-1, probs.shape[-1]), labels.reshape(-1), weights.reshape(-1)
    if masked:  # so that blocks are those of the examples that count alone
        order = jnp.argsort(weights <= 0, stable=True)
        probs, labels, weights = probs[order], labels[order], weights[order]
    return probs, labels, weights, _median_distance(probs, weights) if bandwidth is None else bandwidth


def _median_distance(probs: jax.Array, weights: jax.Array) -> jax.Array:
    """Between all pairs of up to 1,000 examples, evenly spaced among those that count, which come first."""
    count, most = jnp.sum((weights > 0).astype(jnp.int32)), min(len(probs), _MEDIAN_OF)
    taken = jnp.minimum(count, most)
    index = jnp.arange(most, dtype=jnp.int32)
    # ⌊i N / taken⌋ without the product i N, which can overflow
    rows = index * (count // taken) + index * (count % taken) // taken
    chosen = probs[jnp.clip(rows, 0, len(probs) - 1)]
    valid = index < taken
    pairs = valid[:, None] & valid[None] & (index[:, None] < index[None])
    median = jnp.nanmedian(jnp.where(pairs, _distances(chosen, chosen), jnp.nan))
    return jnp.where(median > 0, median, 1.0)


@functools.partial(jax.jit, static_argnames="size")
def _error(probs: Any, labels: Any, weights: Any, nu: Any, size: int) -> jax.Array:
    return _statistics(probs, labels[None], weights, nu, size)[0]


@functools.partial(jax.jit, static_argnames=("size", "num_draws"))
def _p_value(key: Any, probs: Any, labels: Any, weights: Any, nu: Any, size: int, num_draws: int) -> jax.Array:
    log_probs = jnp.log(probs)

    def draw(index: jax.Array) -> jax.Array:
        return jax.random.categorical(jax.random.fold_in(key, index), log_probs).astype(jnp.int32)

    def of_drawn(indices: jax.Array) -> jax.Array:
        return _statistics(probs, jax.vmap(draw)(indices), weights, nu, size)

    at_once = min(_DRAWS, num_draws, max(1, _NUMBERS // probs.size))
    num_chunks = -(-num_draws // at_once)
    indices = jnp.arange(num_chunks * at_once, dtype=jnp.int32).reshape(num_chunks, at_once)
    found = jax.lax.map(of_drawn, indices).reshape(-1)[:num_draws]
    observed = _statistics(probs, labels[None], weights, nu, size)
    # Ties count, also where rounding tells them apart.
    rounding = 1e-5 * jnp.abs(found).max()
    return (1 + jnp.sum((found >= observed - rounding).astype(jnp.int32))).astype(jnp.float32) / (num_draws + 1)


def _statistics(probs: jax.Array, labels: jax.Array, weights: jax.Array, nu: jax.Array, size: int) -> jax.Array:
    """The SKCE for each of several sets of labels [R, N], in blocks of `size`, for which one kernel serves."""
    num_classes = probs.shape[-1]
    tile = min(_TILE, size)
    num_blocks, height = -(-len(probs) // size), -(-size // tile) * tile

    def in_blocks(array: jax.Array) -> jax.Array:  # [N, ...] as [blocks, height, ...], with zeros at the ends
        array = jnp.pad(array, [(0, num_blocks * size - len(array)), *[(0, 0)] * (array.ndim - 1)])
        array = array.reshape(num_blocks, size, *array.shape[1:])
        return jnp.pad(array, [(0, 0), (0, height - size), *[(0, 0)] * (array.ndim - 2)])

    def of_block(block: Any) -> tuple[jax.Array, jax.Array]:
        probs, labels, weights = block
        one_hot = jax.nn.one_hot(labels, num_classes, dtype=jnp.float32)
        residuals = (one_hot - probs[:, None]) * weights[:, None, None]  # [height, R, K]
        flat = residuals.reshape(height, -1)
        index = jnp.arange(height, dtype=jnp.int32)

        def of_tile(start: jax.Array) -> jax.Array:
            rows = start + jnp.arange(tile, dtype=jnp.int32)
            kernel = jnp.exp(-_distances(probs[rows], probs) / nu) * (rows[:, None] != index[None]).astype(jnp.float32)
            products = residuals[rows] * jnp.matmul(kernel, flat, precision="highest").reshape(tile, -1, num_classes)
            return jnp.sum(products, (0, 2))

        starts = jnp.arange(0, height, tile, dtype=jnp.int32)
        count = jnp.sum(weights)
        return jnp.sum(jax.lax.map(of_tile, starts), 0), count * (count - 1)

    blocks = in_blocks(probs), in_blocks(labels.T), in_blocks(weights)
    sums, pairs = jax.lax.map(of_block, blocks, batch_size=min(num_blocks, max(1, _GROUP // height)))
    return jnp.sum(sums, 0) / jnp.sum(pairs)


def _distances(rows: jax.Array, columns: jax.Array) -> jax.Array:
    """‖pᵢ − pⱼ‖₂ from differences: 1e-7 of them, where ‖pᵢ‖² + ‖pⱼ‖² − 2 ⟨pᵢ, pⱼ⟩ leaves 3e-4 of a distance of 0."""

    def add(squares: jax.Array, of_class: Any) -> tuple[jax.Array, None]:
        row, column = of_class
        return squares + (row[:, None] - column[None]) ** 2, None

    none = jnp.zeros((len(rows), len(columns)), jnp.float32)
    return jnp.sqrt(jax.lax.scan(add, none, (rows.T, columns.T))[0])  # class by class: whole rows of pairs at once
