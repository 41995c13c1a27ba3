"""Time of `import bdl` in a fresh process, over that of importing the libraries it stands on."""

import os
import subprocess
import sys
from collections.abc import Iterator

from benchmarks._timing import Row, Settings, compare, run

DEPENDENCIES = "chex, equinox, flax.linen, flax.nnx, jax, numpyro, numpyro.distributions, optax"


def rows(settings: Settings) -> Iterator[Row]:
    yield compare("import bdl", lambda: fresh(DEPENDENCIES), lambda: fresh("bdl"), settings, 1.05)


def fresh(modules: str) -> None:
    # With compiled bytecode, as installed libraries have it.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run([sys.executable, "-c", f"import {modules}"], check=True, env=environment)


if __name__ == "__main__":
    run(__doc__, rows)
