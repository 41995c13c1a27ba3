"""Where random keys come from: the caller's key and a name, never a split."""

from typing import Any

import jax
import jax.numpy as jnp

from bdl._paths import stable_hash


def derive(key: Any, name: str, index: Any = None) -> jax.Array:
    """The key of a named use of the caller's `key`, and of its draw or step `index`.

    The caller's key is not consumed: `derive(key, "fit")` and `derive(key, "predict")` are independent, so one key
    serves both.

    Raises:
        TypeError: `key` is not a random key.
    """
    named = jax.random.fold_in(check_key(key), stable_hash(name))
    return named if index is None else jax.random.fold_in(named, index)


def check_key(key: Any) -> jax.Array:
    """`key` as one typed key; a raw `uint32[2]` of `jax.random.PRNGKey` is wrapped.

    Raises:
        TypeError: it is not a random key, or an array of several.
    """
    if isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.shape == ():
        return key
    if hasattr(key, "dtype") and key.dtype == jnp.uint32 and key.shape == (2,):
        return jax.random.wrap_key_data(jnp.asarray(key))
    got = f"{key.dtype}{list(key.shape)}" if hasattr(key, "dtype") else repr(key)
    raise TypeError(
        f"expected one random key as the first argument, got {got}. "
        "Make one with `jax.random.key(0)`; for several runs, `jax.vmap` over an array of keys."
    )
