"""Layers that stretch no difference of their inputs by more than a given factor."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bdl._keys import derive
from bdl._paths import map_named, named_leaves
from bdl._random import flat
from bdl.networks._base import Network
from bdl.networks._features import capturing, knows_layers
from bdl.networks._use import Use
from bdl.noise import find_uses
from bdl.ood._unit import unit

_START = 50  # iterations for the first estimate


def spectral_norm(key: Any, network: Network, x: Any, *, coefficient: float = 3.0, num_iterations: int = 1) -> Network:
    """`network` with every kernel W replaced by W / max(1, σ(W) / coefficient), σ the largest singular value.

    Then a layer moves two inputs apart by at most `coefficient` times their distance: with residual connections inputs
    that differ keep features that differ, so that the density of features (`gaussian_mixture`) says how much an input
    is like the training data. The weights stay in their structure, and the gradient goes through σ. Of random weights
    there is one σ for each draw, so that a posterior over them is fitted with `noise="shared"`.

    σ is that of the layer's linear operation: of a dense layer the matrix's; of a convolution that with stride one of
    images that wrap around, on a grid of four kernels, which is the largest on any image to about 2 % for 3 × 3. It
    comes from below, by power iteration on vectors that live in the network's state: a pass with `train=True` moves
    them on. Biases, embeddings and the scales of normalisation layers stay as they are.

    Args:
        key: of the vectors that the iteration starts from.
        network: with its weights.
        x: inputs, or their `jax.ShapeDtypeStruct`: the network is traced once to see how it uses each kernel.
        coefficient: the largest factor, above 0. In the paper 3.
        num_iterations: per pass, at least 1.

    Returns:
        The network, with the state {"network": its own, "spectral_norm": {path: vector}}.

    Raises:
        ValueError: the network has no weights, no kernel, or a number is out of its range.

    Reference:
        Miyato et al. (2018), Spectral normalization for generative adversarial networks,
        https://arxiv.org/abs/1802.05957; Mukhoti et al. (2023), Deep deterministic uncertainty: a new simple baseline,
        https://arxiv.org/abs/2102.11582

    Example:
        >>> import jax, jax.numpy as jnp, bdl, bdl.ood
        >>> line = bdl.network(lambda p, x: x @ p["w"], {"w": jnp.diag(jnp.array([6.0, 1.0]))})
        >>> network = bdl.ood.spectral_norm(jax.random.key(0), line, jnp.ones((1, 2)), coefficient=3.0)
        >>> network.apply(network.params, network.state, jnp.ones((1, 2)))[0].round(2)
        Array([[3. , 0.5]], dtype=float32)
    """
    if network.params is None:
        raise ValueError("spectral_norm: this network has no weights. Pass the network that the model is made of.")
    if not 0 < coefficient < math.inf:
        raise ValueError(f"spectral_norm: expected coefficient above 0 and finite, got {coefficient}.")
    if not isinstance(num_iterations, int | np.integer) or num_iterations < 1:
        raise ValueError(f"spectral_norm: expected num_iterations of at least 1, got {num_iterations!r}.")
    apply = lambda params, x, state: network.apply(params, state, x)
    uses = find_uses(apply, network.params, x, network.state)
    kernels = {p: (a, uses[p]) for p, a in named_leaves(network.params).items() if p in uses and _is_kernel(a, uses[p])}
    if not kernels:
        raise ValueError("spectral_norm: none of the network's weights is the kernel of a dense or convolution layer.")
    vectors = {p: _first_vector(derive(key, p), *kernel) for p, kernel in kernels.items()}
    kind = _CapturingNormalised if knows_layers(network.function) else _Normalised
    function = kind(network.function, tuple((p, use) for p, (_, use) in kernels.items()), coefficient, num_iterations)
    state = {"network": network.state, "spectral_norm": vectors}
    return dataclasses.replace(network, function=function, state=state)


@dataclasses.dataclass(frozen=True)
class _Normalised:
    function: Callable[..., Any]
    uses: tuple[tuple[str, Use], ...]
    coefficient: float
    num_iterations: int

    @property
    def takes_key(self) -> bool:
        return bool(getattr(self.function, "takes_key", True))

    def __call__(self, params: Any, state: Any, x: Any, key: Any, train: bool) -> tuple[Any, Any]:
        uses, vectors = dict(self.uses), dict(state["spectral_norm"])

        def normalised(path: str, array: jax.Array) -> jax.Array:
            if path not in uses:
                return array
            vectors[path], norm = _iterate(array, uses[path], vectors[path], self.num_iterations)
            return (array.astype(jnp.float32) / jnp.maximum(1.0, norm / self.coefficient)).astype(array.dtype)

        params = map_named(normalised, params)
        outputs, inner = self._inner()(params, state["network"], x, key, train)
        return outputs, {"network": inner, "spectral_norm": vectors if train else state["spectral_norm"]}

    def _inner(self) -> Callable[..., Any]:
        return self.function


@dataclasses.dataclass(frozen=True)
class _CapturingNormalised(_Normalised):
    """Of a network whose layers are known: see `bdl.networks.features`."""

    capture: bool = False

    def _inner(self) -> Callable[..., Any]:
        return capturing(self.function, self.capture)


def _is_kernel(array: jax.Array, use: Use) -> bool:
    return array.ndim > 1 and bool(use.in_axes) and use.fan_in > 1


def _first_vector(key: jax.Array, kernel: jax.Array, use: Use) -> jax.Array:
    shape = jax.eval_shape(lambda: _canonical(kernel, use)).shape
    grid = [_grid(size) for size in shape[1:-2]]
    vector = flat(jax.random.normal, key, (shape[0], 1, *grid, shape[-2]))
    return _iterate_once(kernel, use, vector, _START)[0]


def _iterate(kernel: jax.Array, use: Use, vectors: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """The vectors after some power iterations, and the norms, of a shape that divides the kernel."""
    matrices = _canonical(kernel.astype(jnp.float32), use)
    fixed = jax.lax.stop_gradient(matrices)

    def power(_: Any, vectors: jax.Array) -> jax.Array:
        outputs, transpose = jax.vjp(lambda v: jax.vmap(_linear)(fixed, v), vectors)
        return unit(transpose(outputs)[0], range(1, vectors.ndim))

    vectors = jax.lax.stop_gradient(jax.lax.fori_loop(0, count, power, unit(vectors, range(1, vectors.ndim))))
    # σ = ‖W v‖, whose gradient is u vᵀ where v is held
    square = (jax.vmap(_linear)(matrices, vectors) ** 2).sum(tuple(range(1, vectors.ndim)))
    norms = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)
    return vectors, _spread(norms, kernel.shape, use)


_iterate_once = jax.jit(_iterate, static_argnums=(1, 3))


def _canonical(kernel: jax.Array, use: Use) -> jax.Array:
    """The kernel as a stack of [S, window..., inputs, outputs]; groups of a convolution are part of the stack."""
    groups = use.groups
    if groups > 1:
        shape, axis = kernel.shape, use.group_axis % kernel.ndim
        kernel = kernel.reshape(*shape[:axis], groups, shape[axis] // groups, *shape[axis + 1 :])
        use = use._replace(
            in_axes=tuple(a + (a > axis) for a in use.in_axes),
            window_axes=tuple(a + (a > axis) for a in use.window_axes),
            stack_axes=(*(a + (a > axis) for a in use.stack_axes), axis),
        )
    used = {*use.stack_axes, *use.window_axes, *use.in_axes}
    out_axes = tuple(a for a in range(kernel.ndim) if a not in used)
    size = lambda axes: math.prod(kernel.shape[a] for a in axes)
    window = [kernel.shape[a] for a in use.window_axes]
    moved = kernel.transpose(*use.stack_axes, *use.window_axes, *use.in_axes, *out_axes)
    return moved.reshape(size(use.stack_axes), *window, size(use.in_axes), size(out_axes))


def _spread(norms: jax.Array, shape: tuple[int, ...], use: Use) -> jax.Array:
    """Norms of a stack in the kernel's number of axes: the largest of all groups, one for each of the stack."""
    norms = norms.reshape(*(shape[a] for a in use.stack_axes), use.groups).max(-1)
    order = np.argsort(use.stack_axes) if use.stack_axes else ()
    return norms.transpose(*order).reshape([n if a in use.stack_axes else 1 for a, n in enumerate(shape)])


def _linear(kernel: jax.Array, x: jax.Array) -> jax.Array:
    """The linear operation of a kernel [window..., inputs, outputs] on one vector [1, grid..., inputs]."""
    window = kernel.shape[:-2]
    if not window:
        return jnp.matmul(x, kernel, precision="highest")
    x = jnp.pad(x, [(0, 0), *((0, size - 1) for size in window), (0, 0)], mode="wrap")
    axes = "XYZ"[: len(window)]
    names = (f"N{axes}C", f"{axes}IO", f"N{axes}C")
    return jax.lax.conv_general_dilated(
        x, kernel, [1] * len(window), "VALID", dimension_numbers=names, precision="highest"
    )


def _grid(size: int) -> int:
    return 1 if size == 1 else 4 * (size + 1)
