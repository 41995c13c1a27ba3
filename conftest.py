"""Strict settings for the whole suite; they must stand before the first use of jax."""

import importlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")

import jax
import pytest

import bdl  # noqa: F401 (before pytest imports one file of it, whose name is also that of a function)

ROOT = Path(__file__).parent
jax.config.update("jax_debug_key_reuse", True)
# Most of the suite's time is compilation: what has been compiled once is kept, so that the next run takes a third.
jax.config.update("jax_compilation_cache_dir", str(ROOT / ".jax_cache"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


@pytest.fixture
def strict_dtypes() -> Iterator[None]:
    """No silent promotion of dtypes or ranks, for arithmetic that is all our own.

    `optax.adam`, `flax.linen.avg_pool` and numpyro's multivariate distributions fail under it.
    """
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture(scope="session")
def load_benchmark() -> Callable[[str], Any]:
    """From a name to the module of `benchmarks/`, which lies beside the package and is not installed."""

    def load(name: str) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(str(ROOT))
            return importlib.import_module(f"benchmarks.{name}")

    return load


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of the data sets, from the environment variable BDL_DATA; without one the test is skipped."""
    folder = os.environ.get("BDL_DATA")
    if not folder:
        pytest.skip("set BDL_DATA to the folder of the data sets to run this test")
    path = Path(folder)
    assert path.is_dir(), f"BDL_DATA={folder!r} is no folder"
    return path
