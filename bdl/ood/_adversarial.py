"""Inputs that are changed a little so that a classifier errs: to test detectors, and to fit them without outliers."""

import math
from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from bdl._convolutions import fast_images
from bdl._data_checks import is_traced
from bdl._keys import check_key, derive
from bdl._random import flat
from bdl.ood._through import as_function
from bdl.ood._unit import unit

Bounds = tuple[float, float] | None
Norm = Literal["inf", "2"]


def fgsm(
    function: Any, x: Any, labels: Any, *, epsilon: float, bounds: Bounds = (0.0, 1.0), targeted: bool = False
) -> jax.Array:
    """The fast gradient sign method, one step of length ε uphill on the loss:

        x̃ = x + ε sign(∇ₓ −log softmax(f(x))_label).

    Args:
        function: from inputs to logits [N, K]: a `bdl.Network` with its weights, or a function such as
            `bdl.function_draw(key, posterior, model)`; see `bdl.ood.through`. It is to treat examples one by one.
        x: inputs [N, ...], floating.
        labels: [N], integers: the true classes, or those to be taken for where `targeted`.
        epsilon: ε > 0 in the inputs' unit.
        bounds: of the inputs' values, which the result keeps to; `None` for none.
        targeted: whether the step goes downhill, towards `labels`.

    Returns:
        [N, ...], of the inputs' dtype.

    Raises:
        ValueError: shapes that do not match, inputs that are not floating or out of bounds, ε that is not positive.
        TypeError: `function` is neither a network nor a function.

    Reference:
        Goodfellow, Shlens and Szegedy (2015), Explaining and harnessing adversarial examples,
        https://arxiv.org/abs/1412.6572

    Example:
        >>> import jax.numpy as jnp, bdl, bdl.ood
        >>> line = bdl.network(lambda p, x: x @ p["w"], {"w": jnp.array([[1.0, -1.0], [-2.0, 2.0]])})
        >>> bdl.ood.fgsm(line, jnp.array([[0.5, 0.5]]), jnp.array([0]), epsilon=0.25)
        Array([[0.25, 0.75]], dtype=float32)
    """
    function = as_function("fgsm", function)
    x, labels = _checked("fgsm", x, labels, epsilon, bounds)
    moved, num_classes = _fgsm(function, x, labels, jnp.float32(-epsilon if targeted else epsilon), bounds)
    return _check_labels("fgsm", labels, num_classes, moved)


def pgd(
    key: Any,
    function: Any,
    x: Any,
    labels: Any,
    *,
    epsilon: float,
    num_steps: int = 10,
    step_size: float | None = None,
    norm: Norm = "inf",
    bounds: Bounds = (0.0, 1.0),
    targeted: bool = False,
) -> jax.Array:
    """Projected gradient ascent on the loss, from a random place within the ball ‖x̃ − x‖ ≤ ε:

        x̃ ← project(x̃ + step_size · direction(∇ₓ −log softmax(f(x̃))_label)),

    with direction(g) = sign(g) for the largest change of a value (norm "inf"), and g / ‖g‖ for the length ("2").

    Args:
        key: of the random places; `None` to start at x itself, the basic iterative method for norm "inf".
        function: from inputs to logits [N, K], as in `fgsm`.
        x: inputs [N, ...], floating.
        labels: [N], integers: the true classes, or those to be taken for where `targeted`.
        epsilon: ε > 0, the radius of the ball around each example, in the inputs' unit.
        num_steps: at least 1.
        step_size: by default 2.5 ε / num_steps.
        norm: of the ball.
        bounds: of the inputs' values, which the result keeps to; `None` for none.
        targeted: whether steps go downhill, towards `labels`.

    Returns:
        [N, ...], of the inputs' dtype.

    Raises:
        ValueError: as `fgsm`, and counts, steps and norms that do not exist.
        TypeError: `function` is neither a network nor a function.

    Reference:
        Madry et al. (2018), Towards deep learning models resistant to adversarial attacks,
        https://arxiv.org/abs/1706.06083; Kurakin, Goodfellow and Bengio (2017), Adversarial examples in the physical
        world, https://arxiv.org/abs/1607.02533

    Example:
        >>> import jax.numpy as jnp, bdl, bdl.ood
        >>> line = bdl.network(lambda p, x: x @ p["w"], {"w": jnp.array([[3.0, -3.0], [-4.0, 4.0]])})
        >>> x, labels = jnp.array([[0.5, 0.5]]), jnp.array([0])
        >>> bdl.ood.pgd(None, line, x, labels, epsilon=0.1, norm="2").round(2)
        Array([[0.44, 0.58]], dtype=float32)
    """
    function = as_function("pgd", function)
    x, labels = _checked("pgd", x, labels, epsilon, bounds)
    if not isinstance(num_steps, int | np.integer) or num_steps < 1:
        raise ValueError(f"pgd: expected num_steps as a whole number of at least 1, got {num_steps!r}.")
    step_size = 2.5 * epsilon / num_steps if step_size is None else step_size
    if not step_size > 0:
        raise ValueError(f"pgd: expected step_size above 0, got {step_size}.")
    if norm not in ("inf", "2"):
        raise ValueError(f'pgd: expected norm="inf" or norm="2", got {norm!r}.')
    if key is not None:
        key = derive(check_key(key), "pgd")
    step = jnp.float32(-step_size if targeted else step_size)
    sizes = jnp.float32(epsilon), step, jnp.int32(num_steps)
    moved, num_classes = _pgd(key, function, x, labels, sizes, norm, bounds)
    return _check_labels("pgd", labels, num_classes, moved)


@eqx.filter_jit
def _fgsm(function: Any, x: jax.Array, labels: jax.Array, epsilon: jax.Array, bounds: Bounds) -> tuple[jax.Array, int]:
    num_classes = _num_classes(function, x)
    slope = _slope(function, x, labels)
    moved = _within(x.astype(jnp.float32) + epsilon * jnp.sign(slope), bounds)
    return moved.astype(x.dtype), num_classes


@eqx.filter_jit
def _pgd(
    key: Any, function: Any, x: jax.Array, labels: jax.Array, sizes: Any, norm: Norm, bounds: Bounds
) -> tuple[jax.Array, int]:
    num_classes = _num_classes(function, x)
    epsilon, step, num_steps = sizes
    centre = x.astype(jnp.float32)

    def project(moved: jax.Array) -> jax.Array:
        return _within(centre + _into_ball(moved - centre, epsilon, norm), bounds)

    def ascend(_: Any, moved: jax.Array) -> jax.Array:
        slope = _slope(function, moved.astype(x.dtype), labels)
        return project(moved + step * (jnp.sign(slope) if norm == "inf" else unit(slope, range(1, slope.ndim))))

    start = centre if key is None else project(centre + epsilon * _in_unit_ball(key, x.shape, norm))
    return jax.lax.fori_loop(0, num_steps, ascend, start).astype(x.dtype), num_classes


def _slope(function: Callable[[Any], Any], x: jax.Array, labels: jax.Array) -> jax.Array:
    """The gradient of each example's cross entropy, float32."""

    def loss(x: jax.Array) -> jax.Array:
        # −log softmax(z)_label = log Σ exp z − z_label
        logits = function(x).astype(jnp.float32)
        at_label = jnp.take_along_axis(logits, labels[:, None], -1)[:, 0]
        return (jax.nn.logsumexp(logits, -1) - at_label).sum()

    return fast_images(jax.grad(loss))(x).astype(jnp.float32)


def _num_classes(function: Callable[[Any], Any], x: jax.Array) -> int:
    outputs = jax.eval_shape(function, x)
    shapes = jax.tree.map(lambda a: a.shape, outputs)
    if not hasattr(outputs, "shape") or outputs.ndim != 2 or len(outputs) != len(x):
        raise ValueError(f"expected a function from inputs to logits [{len(x)}, K], got outputs of shape {shapes}.")
    return int(outputs.shape[1])


def _check_labels(name: str, labels: jax.Array, num_classes: int, moved: jax.Array) -> jax.Array:
    """`moved`, if the labels are classes."""
    if not is_traced(labels):
        outside = np.asarray(labels)[(np.asarray(labels) < 0) | (np.asarray(labels) >= num_classes)]
        if outside.size:
            raise ValueError(f"{name}: expected labels in 0, …, {num_classes - 1}, got {outside[0]}.")
    return moved


def _within(x: jax.Array, bounds: Bounds) -> jax.Array:
    return x if bounds is None else jnp.clip(x, *bounds)


def _into_ball(change: jax.Array, epsilon: jax.Array, norm: Norm) -> jax.Array:
    if norm == "inf":
        return jnp.clip(change, -epsilon, epsilon)
    length = _length(change)
    return change * jnp.where(length > epsilon, epsilon / jnp.where(length > 0, length, 1.0), 1.0)


def _in_unit_ball(key: jax.Array, shape: tuple[int, ...], norm: Norm) -> jax.Array:
    """Places that are uniform in the unit ball of each example."""
    if norm == "inf":
        return 2 * flat(jax.random.uniform, key, shape) - 1
    radius = jax.random.uniform(derive(key, "radius"), (shape[0], *[1] * (len(shape) - 1)))
    direction = unit(flat(jax.random.normal, derive(key, "direction"), shape), range(1, len(shape)))
    return direction * radius ** (1 / max(math.prod(shape[1:]), 1))


def _length(x: jax.Array) -> jax.Array:
    return jnp.sqrt((x**2).sum(tuple(range(1, x.ndim)), keepdims=True))


def _checked(name: str, x: Any, labels: Any, epsilon: float, bounds: Bounds) -> tuple[jax.Array, jax.Array]:
    kind, shape = jnp.result_type(x), np.shape(x)
    if not jnp.issubdtype(kind, jnp.floating) or len(shape) < 2:
        raise ValueError(
            f"{name}: expected floating inputs [N, ...], got {kind} of shape {shape}. Scale images to [0, 1]."
        )
    if np.shape(labels) != shape[:1] or not jnp.issubdtype(jnp.result_type(labels), np.integer):
        raise ValueError(
            f"{name}: expected integer labels [{shape[0]}], got {jnp.result_type(labels)} of shape {np.shape(labels)}."
        )
    if not 0 < epsilon < math.inf:
        raise ValueError(f"{name}: expected epsilon above 0 and finite, got {epsilon}.")
    if bounds is not None and not bounds[0] < bounds[1]:
        raise ValueError(f"{name}: expected bounds (low, high) with low < high, got {bounds}.")
    if bounds is not None and not is_traced(x):
        low, high = np.min(x), np.max(x)
        if not (low >= bounds[0] and high <= bounds[1]):
            raise ValueError(
                f"{name}: expected inputs within bounds={bounds}, got values from {low:.4g} to {high:.4g}. Pass the "
                "bounds of the inputs as they are, or bounds=None."
            )
    return jnp.asarray(x), jnp.asarray(labels).astype(jnp.int32)
