"""What `hmc` compares with: the regression problems, and the draws of NUTS for them, kept in files."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.diagnostics import effective_sample_size, gelman_rubin
from numpyro.infer import MCMC, NUTS, init_to_value

from benchmarks import uci

HIDDEN = 50
# Standard deviations of the noise, of standardised targets. With them the root mean squares of the held-out residuals
# of MAP fits, in five folds of the training part, are 0.32, 0.30 and 0.72.
NOISE = {"bostonHousing": 0.3, "concrete": 0.3, "diabetes": 0.7}


class Problem(NamedTuple):
    """One split of a data set, standardised by its training part."""

    name: str
    x: jax.Array  # [N, D]
    y: jax.Array  # [N, 1]
    x_new: jax.Array  # [M, D]
    y_new: jax.Array  # [M, 1]
    unit: float  # the standard deviation of the training targets
    noise: float


def problem(name: str, folder: Path | None) -> Problem:
    """Split 0 of a UCI set, or nine tenths of scikit-learn's `diabetes` against the last."""
    if name == "diabetes":
        data = _diabetes()
    elif folder is None:
        raise SystemExit("pass --data DIR, or set BDL_DATA to the folder above `uci`")
    else:
        data = uci.read(folder, name)
    part = uci.part({k: v[:1] if k in ("index_train", "index_test") else v for k, v in data.items()}, validation=False)
    return Problem(name, *(jnp.asarray(a[0]) for a in part[:4]), float(part.unit[0]), NOISE[name])


def _diabetes() -> dict[str, np.ndarray]:
    from sklearn.datasets import load_diabetes

    x, y = load_diabetes(return_X_y=True)
    order, tenth = np.random.default_rng(0).permutation(len(x)), len(x) // 10
    return {
        "data": np.column_stack([x, y]),
        "index_features": np.arange(x.shape[1]),
        "index_target": np.array([x.shape[1]]),
        "index_train": order[None, tenth:],
        "index_test": order[None, :tenth],
    }


def network(params: Any, x: Any) -> jax.Array:
    """One hidden layer of tanh units."""
    hidden = jnp.tanh(x @ params["hidden"]["kernel"] + params["hidden"]["bias"])
    return hidden @ params["output"]["kernel"] + params["output"]["bias"]


def start(key: Any, inputs: int) -> dict[str, Any]:
    """Weights to start from: kernels of variance 1 / fan-in, biases of zero."""
    keys = jax.random.split(key)
    layer = lambda key, i, o: {"kernel": jax.random.normal(key, (i, o)) / i**0.5, "bias": jnp.zeros(o)}
    return {"hidden": layer(keys[0], inputs, HIDDEN), "output": layer(keys[1], HIDDEN, 1)}


def numpyro_model(problem: Problem) -> Callable[[], None]:
    """The model in numpyro: the prior is `bdl.priors.fan_in()`, Normals of variance 2 / fan-in, of 1 for biases."""
    inputs = problem.x.shape[1]

    def layer(name: str, i: int, o: int) -> dict[str, Any]:
        kernel = numpyro.sample(f"{name}/kernel", dist.Normal(0.0, (2 / i) ** 0.5).expand((i, o)).to_event(2))
        bias = numpyro.sample(f"{name}/bias", dist.Normal(0.0, 1.0).expand((o,)).to_event(1))
        return {"kernel": kernel, "bias": bias}

    def model() -> None:
        params = {"hidden": layer("hidden", inputs, HIDDEN), "output": layer("output", HIDDEN, 1)}
        numpyro.sample("y", dist.Normal(network(params, problem.x), problem.noise).to_event(2), obs=problem.y)

    return model


def sites(params: dict[str, Any]) -> dict[str, Any]:
    """The network's weights by the names of the sites in `numpyro_model`."""
    return {f"{layer}/{name}": array for layer, arrays in params.items() for name, array in arrays.items()}


def outputs(draws: dict[str, Any], x: Any) -> jax.Array:
    """The network's outputs [S, M] for draws [S, ...] of the sites."""
    layers = ("hidden", "output")
    params = {layer: {name: draws[f"{layer}/{name}"] for name in ("kernel", "bias")} for layer in layers}
    return jax.vmap(network, (0, None))(params, x)[..., 0]


class Reference(NamedTuple):
    """What is kept of a NUTS run."""

    outputs: np.ndarray  # [chains, draws, M], f(x) at the test points
    diagnostics: dict[str, float]


def reference(problem: Problem, cache: Path, *, seed: int, chains: int, warmup: int, draws: int) -> Reference:
    """The draws of a NUTS run, from its file where there is one."""
    file = cache / f"{problem.name}-noise{problem.noise:g}-seed{seed}-{chains}x{warmup}+{draws}.npz"
    if file.is_file():
        with np.load(file) as saved:
            return Reference(saved["outputs"], {k: saved[k].item() for k in saved.files if k != "outputs"})
    result = run_nuts(problem, seed=seed, chains=chains, warmup=warmup, draws=draws)
    cache.mkdir(parents=True, exist_ok=True)
    np.savez(file, outputs=result.outputs, **result.diagnostics)
    return result


def run_nuts(problem: Problem, *, seed: int, chains: int, warmup: int, draws: int) -> Reference:
    """NUTS with numpyro's adaptation of step size and diagonal mass, chains one after the other."""
    begin = time.process_time()
    f, steps, divergences = [], [], 0
    for chain in range(chains):
        keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), chain), 2)
        values = sites(start(keys[0], problem.x.shape[1]))
        kernel = NUTS(numpyro_model(problem), init_strategy=init_to_value(values=values), target_accept_prob=0.8)
        mcmc = MCMC(kernel, num_warmup=warmup, num_samples=draws, progress_bar=False)
        mcmc.run(keys[1], extra_fields=("diverging", "num_steps"))
        f.append(np.asarray(outputs(mcmc.get_samples(), problem.x_new)))
        extra = mcmc.get_extra_fields()
        steps.append(float(extra["num_steps"].mean()))
        divergences += int(extra["diverging"].sum())
        print(f"  NUTS chain {chain}: {steps[-1]:.0f} steps a draw, {time.process_time() - begin:.0f} s", flush=True)
    f = np.stack(f)
    ess = effective_sample_size(f.astype(np.float64))
    return Reference(
        f,
        {
            "r_hat_max": float(gelman_rubin(f.astype(np.float64)).max()),
            "ess_min": float(ess.min()),
            "ess_median": float(np.median(ess)),
            "divergences": divergences,
            "steps_per_draw": float(np.mean(steps)),
            "processor_seconds": time.process_time() - begin,
        },
    )
