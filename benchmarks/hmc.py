"""Approximate posteriors of a small network against NUTS: means, spreads and distributions of the function itself.

    python -m benchmarks.hmc --data DIR --cache DIR       # half an hour on one core, a third of it for NUTS
    python -m benchmarks.hmc --sets diabetes --fast       # does it run?

One model for all: a hidden layer of 50 tanh units, y ~ Normal(f(x), noise²) with the noise's scale fixed, weights ~
Normal(0, 2 / fan-in), biases ~ Normal(0, 1), inputs and targets standardised by the training part. The reference is
NUTS, four chains, which is as near to the truth as there is; a second run under another seed shows what its own Monte
Carlo error comes to. Each method gets as many draws of f(x) at the test points as the reference has.

For every test point: m and s are the mean and the standard deviation of f(x) under NUTS. The table has

* "mean": |mean of the method − m| / s, and "Wasserstein": the Wasserstein-1 distance of the two distributions of f(x)
  over s; both averaged over the test points, so that the second is never smaller than the first;
* "spread": the method's standard deviation over s, the median over the test points;
* "log-likelihood" per test point, in the targets' own units, nats, higher is better;
* "ELBO" in nats for the standardised training targets, where the objective is a bound; "± s.e." of its Monte Carlo
  estimate; and "last doubling", what the final ELBO gained when a second run had twice as many steps.

Every fit is Adam on the whole training part with a cosine-decayed learning rate: of two rates, the one with the better
objective after half the steps. Families factorise over the four weight arrays, but for the rows "whole network", which
are the very families of numpyro's guides. DIR of --data is that of `benchmarks.uci`; --cache keeps the draws of NUTS.
"""

import argparse
import functools
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from jax.flatten_util import ravel_pytree
from numpyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO, autoguide, init_to_value
from scipy.stats import wasserstein_distance

import bdl
from benchmarks import _command
from benchmarks import _hmc_reference as reference
from benchmarks._hmc_reference import Problem
from benchmarks._timing import environment

SETS = tuple(reference.NOISE)
SCALE = 0.05  # the initial standard deviation of every weight
RATES = 0.01, 0.03  # initial learning rates; the one with the better objective after half the steps is taken
ENSEMBLE = 10
REPEATED = "normal", "numpyro AutoNormal"  # fitted from several initialisations


class Family(NamedTuple):
    """A row of the table that bdl fits."""

    make: Callable[[Any], Any]  # from `bdl.families` to initialisers, for every array or by path
    noise: str = "local"
    whole: bool = False  # over one array that holds all weights
    by_name: bool = False  # only where --methods names it: many times the cost of the others


# Shared noise where local noise is an approximation, or a draw of the whole array for each example.
FAMILIES = {
    "normal": Family(lambda f: f.normal(SCALE)),
    "normal, tied by array": Family(lambda f: f.normal(SCALE, tied="array")),
    "normal, tied by row": Family(lambda f: f.normal(SCALE, tied="row")),
    "normal, relative": Family(lambda f: f.normal(0.2, relative=True)),
    "normal, Flipout": Family(lambda f: f.normal(SCALE, local="flipout")),
    "low_rank_normal(10)": Family(lambda f: f.low_rank_normal(10, SCALE)),
    "full_normal": Family(lambda f: f.full_normal(SCALE), "shared", by_name=True),
    "radial": Family(lambda f: f.radial(SCALE), "shared"),
    "rank1_normal": Family(lambda f: f.rank1_normal(SCALE)),
    "sparse_dropout": Family(lambda f: f.sparse_dropout(SCALE)),
    "bernoulli_dropout(0.05)": Family(lambda f: f.bernoulli_dropout(0.05)),
    "bernoulli_dropout(0.2)": Family(lambda f: f.bernoulli_dropout(0.2)),
    "concrete_dropout": Family(lambda f: f.concrete_dropout()),
    "gaussian_dropout(0.05)": Family(lambda f: f.gaussian_dropout(0.05)),
    "gaussian_dropout, by weight, learned": Family(
        lambda f: lambda array: f.gaussian_dropout(alpha=bdl.learned(0.05), noise="weight")(array)
    ),
    "drop_connect(0.05)": Family(lambda f: f.drop_connect(0.05)),
    "batch_ensemble(10)": Family(lambda f: f.batch_ensemble(10)),
    "masksembles(10)": Family(lambda f: f.masksembles(10)),
    # These two are the very families of numpyro's guides.
    "low_rank_normal(27), whole network": Family(lambda f: f.low_rank_normal(27, SCALE), "shared", True),
    "full_normal, whole network": Family(lambda f: f.full_normal(SCALE), "shared", True, by_name=True),
}
GUIDES: dict[str, Callable[..., Any]] = {
    "numpyro AutoNormal": autoguide.AutoNormal,
    "numpyro AutoLowRankMultivariateNormal(27)": functools.partial(autoguide.AutoLowRankMultivariateNormal, rank=27),
    "numpyro AutoMultivariateNormal": autoguide.AutoMultivariateNormal,  # by name as well
}


class Fit(NamedTuple):
    """What a method gives."""

    outputs: Any  # draws of f(x) at the test points, [S, M]
    objective: Any = None  # draws of the estimate of what was maximised
    is_bound: Any = True  # whether that is a bound, the ELBO


class Counts(NamedTuple):
    """How many draws."""

    outputs: int
    elbo: int


Method = Callable[[Any, Any, Any], Fit]  # of a key, a learning rate and a number of steps: one program for all of them


def fit_family(problem: Problem, family: Family, counts: Counts) -> Method:
    """A family of bdl, over every array or over one array that holds all weights."""
    make, data = family.make(bdl.families), (problem.x, problem.y)

    def fit(key: Any, rate: Any, steps: Any) -> Fit:
        params, apply, prior = reference.start(key, problem.x.shape[1]), reference.network, bdl.priors.fan_in()
        if family.whole:
            scales = jax.tree.map(lambda a: jnp.full(a.shape, (2 / len(a)) ** 0.5 if a.ndim > 1 else 1.0), params)
            prior = bdl.priors.normal(scale=ravel_pytree(scales)[0])
            flat, unravel = ravel_pytree(params)
            params, apply = {"w": flat}, lambda params, x: reference.network(unravel(params["w"]), x)
        model = bdl.Model(bdl.network(apply, params), bdl.likelihoods.Normal(problem.noise), prior)
        algorithm = bdl.inference.vi(_adam(rate, steps), noise=family.noise)
        posterior = _ascend(key, algorithm, bdl.variational(params, make), model, data, steps)

        terms = lambda key: bdl.elbo(key, posterior, model, data, num_data=len(problem.x), noise=family.noise)
        objective = jax.lax.map(lambda key: terms(key).elbo, _keys(key, "elbo", counts.elbo))
        # A finite family has as many draws as it has members.
        draws = bdl.predict(key, posterior, model, problem.x_new, num_samples=counts.outputs, return_draws=True).draws
        return Fit(draws[..., 0], objective, jax.eval_shape(terms, key).is_bound)

    return fit


def fit_guide(problem: Problem, make: Callable[..., Any], counts: Counts) -> Method:
    """A guide of numpyro from the same weights and scales, fitted as numpyro does: one draw for the batch."""
    model = reference.numpyro_model(problem)

    def fit(key: Any, rate: Any, steps: Any) -> Fit:
        values = reference.sites(reference.start(key, problem.x.shape[1]))
        guide = make(model, init_loc_fn=init_to_value(values=values), init_scale=SCALE)
        objective = TraceMeanField_ELBO() if isinstance(guide, autoguide.AutoNormal) else Trace_ELBO()
        svi = SVI(model, guide, numpyro.optim.optax_to_numpyro(_adam(rate, steps)), objective)
        state = svi.init(jax.random.fold_in(key, 0))
        state = jax.lax.fori_loop(0, steps, lambda _, state: svi.update(state)[0], state)
        params = svi.get_params(state)
        loss = lambda key: objective.loss(key, params, model, guide)
        elbo = -jax.lax.map(loss, _keys(key, "elbo", counts.elbo))
        draws = guide.sample_posterior(_keys(key, "draws", 1)[0], params, sample_shape=(counts.outputs,))
        return Fit(reference.outputs(draws, problem.x_new), elbo)

    return fit


def fit_point(problem: Problem) -> Callable[[Any, Any], Any]:
    """f(x) [M] at the mode that an initialisation leads to."""

    def fit(key: Any, steps: Any) -> Any:
        params = reference.start(key, problem.x.shape[1])
        model = bdl.Model(bdl.network(reference.network, params), bdl.likelihoods.Normal(problem.noise))
        posterior = bdl.variational(params, bdl.families.point)
        algorithm = bdl.inference.map(_adam(RATES[0], steps))
        posterior = _ascend(key, algorithm, posterior, model, (problem.x, problem.y), steps)
        return reference.network(posterior.tree, problem.x_new)[:, 0]

    return fit


def _ascend(key: Any, algorithm: Any, posterior: Any, model: Any, data: Any, steps: Any) -> Any:
    # `bdl.fit` would compile anew for every number of steps.
    state = algorithm.init(key, *bdl.bind(posterior, model, data[0]), num_data=len(data[0]))
    step = lambda i, state: algorithm.step(jax.random.fold_in(key, i), state, data)[0]
    return jax.lax.fori_loop(0, steps, step, state).posterior


def _adam(rate: Any, steps: Any) -> optax.GradientTransformation:
    # The schedules of optax want their number of steps as a number.
    return optax.adam(lambda count: rate * 0.5 * (1 + jnp.cos(jnp.pi * count / steps)))


def _keys(key: Any, name: str, count: int) -> Any:
    return jax.random.split(jax.random.fold_in(key, sum(map(ord, name))), count)


def scores(outputs: Any, truth: Any, problem: Problem) -> dict[str, float]:
    """Draws of f(x) [S, M] against those of the reference [R, M]; see the head of this file."""
    outputs, truth = np.asarray(outputs, np.float64), np.asarray(truth, np.float64)
    mean, scale = truth.mean(0), truth.std(0)
    distance = [wasserstein_distance(*pair) for pair in zip(outputs.T, truth.T, strict=True)]
    log_density = np.asarray(dist.Normal(outputs, problem.noise).log_prob(np.asarray(problem.y_new)[:, 0]), np.float64)
    return {
        "mean": float(np.mean(np.abs(outputs.mean(0) - mean) / scale)),
        "wasserstein": float(np.mean(distance / scale)),
        "spread": float(np.median(outputs.std(0) / scale)),
        # y = unit · z + mean, so that log p(y) = log p(z) − log unit.
        "log_likelihood": float(np.mean(_log_mean_exp(log_density)) - np.log(problem.unit)),
    }


def _log_mean_exp(a: np.ndarray) -> np.ndarray:
    top = a.max(0)
    return top + np.log(np.exp(a - top).mean(0))


def methods(names: Sequence[str] | None) -> dict[str, Callable[[Problem, Counts], Method]]:
    """The methods of these names, `None` for all but the dear ones. What this version of bdl lacks is left out."""
    found: dict[str, Callable[[Problem, Counts], Method]] = {}
    for name, family in FAMILIES.items():
        if family.by_name if names is None else name not in names:
            continue
        try:
            family.make(bdl.families)(jnp.ones((3, 2)))
        except (AttributeError, TypeError) as error:
            print(f"{name}: left out, {error}", flush=True)
            continue
        found[name] = lambda problem, counts, family=family: fit_family(problem, family, counts)
    for name, guide in GUIDES.items():
        if name != "numpyro AutoMultivariateNormal" if names is None else name in names:
            found[name] = lambda problem, counts, guide=guide: fit_guide(problem, guide, counts)
    return found


def run_method(method: Method, key: Any, args: argparse.Namespace, repeats: int) -> tuple[Fit, dict[str, Any]]:
    """The fit at the better learning rate, and what its objective came to; `repeats` more from other weights."""
    start, fit = time.process_time(), jax.jit(method)
    mean = lambda fit: float(np.mean(np.asarray(fit.objective, np.float64)))
    half = {rate: mean(fit(key, rate, args.steps // 2)) for rate in args.rates}
    rate = max(half, key=lambda rate: np.nan_to_num(half[rate], nan=-np.inf))
    best = fit(key, rate, args.steps)
    row = {
        "rate": rate,
        "steps": args.steps,
        "is_bound": bool(best.is_bound),
        "objective": mean(best),
        "objective_error": float(np.std(np.asarray(best.objective)) / len(best.objective) ** 0.5),
        "objective_half": half[rate],
        "seconds": time.process_time() - start,
    }
    if repeats:
        row["repeats"] = [mean(fit(k, rate, args.steps)) for k in _keys(key, "repeats", repeats)]
    return best, row


def run_set(problem: Problem, args: argparse.Namespace, results: dict[str, Any], save: Callable[[], None]) -> None:
    """Fill `results` with a row for each method that it does not have."""
    nuts = {"chains": args.chains, "warmup": args.warmup, "draws": args.draws}
    first, second = (reference.reference(problem, args.cache, seed=seed, **nuts) for seed in (0, 1))
    truth, again = (run.outputs.reshape(-1, run.outputs.shape[-1]) for run in (first, second))
    results["NUTS"] = scores(truth, truth, problem) | {"diagnostics": first.diagnostics}
    results["NUTS again"] = scores(again, truth, problem) | {"diagnostics": second.diagnostics}
    counts, key = Counts(len(truth), args.elbo_draws), jax.random.key(args.seed)
    if "MAP" not in results:
        members = jax.jit(jax.vmap(fit_point(problem), (0, None)))
        points = members(_keys(key, "members", ENSEMBLE), args.steps)
        results["MAP"] = scores(points[:1], truth, problem)
        results[f"ensemble of {ENSEMBLE} MAP"] = scores(points, truth, problem)
    for name, method in methods(args.methods).items():
        if name in results:
            continue
        fit, row = run_method(method(problem, counts), key, args, args.repeats if name in REPEATED else 0)
        results[name] = scores(fit.outputs, truth, problem) | row
        print(f"  {name}: {json.dumps(results[name])}", flush=True)
        save()


def table(results: dict[str, Any]) -> str:
    """The rows of a set as Markdown."""
    rows = [
        "| method | mean | Wasserstein | spread | log-likelihood | ELBO ± s.e. | last doubling |",
        "|---|---|---|---|---|---|---|",
    ]
    known = [*FAMILIES, *GUIDES]
    for name, row in sorted(results.items(), key=lambda item: known.index(item[0]) if item[0] in known else -1):
        cells = [name, *(f"{row[k]:.2f}" for k in ("mean", "wasserstein", "spread")), f"{row['log_likelihood']:.3f}"]
        bound = row.get("is_bound", False)
        cells += [f"{row['objective']:.1f} ± {row['objective_error']:.1f}" if bound else "–"]
        cells += [f"{row['objective'] - row['objective_half']:+.1f}" if "objective" in row else "–"]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _command.parser(__doc__, "uci")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "bdl-hmc", help="of the draws of NUTS")
    parser.add_argument("--sets", nargs="+", default=SETS, choices=SETS, help="default: all three")
    parser.add_argument("--methods", nargs="+", help="names of rows; default: all but full covariances")
    parser.add_argument("--rates", nargs="+", type=float, default=RATES, help="initial learning rates to choose from")
    parser.add_argument("--steps", type=int, default=10_000, help="of Adam, default: 10,000")
    parser.add_argument("--chains", type=int, default=4)
    parser.add_argument("--warmup", type=int, default=500)
    parser.add_argument("--draws", type=int, default=500, help="of each chain, default: 500")
    parser.add_argument("--elbo-draws", type=int, default=2_000, help="default: 2,000")
    parser.add_argument("--repeats", type=int, default=5, help="more initialisations of mean field, default: 5")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="folder of hmc.json; what is in it is not run again")
    parser.add_argument("--fast", action="store_true", help="20 steps, 2 chains of 10 draws: does it run?")
    args = parser.parse_args(argv)
    if args.fast:
        args.steps, args.chains, args.warmup, args.draws, args.elbo_draws = 20, 2, 10, 10, 10
        args.repeats = 1
    return args


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run what the command line asks for, save after every method, print the tables."""
    args = _arguments(argv)
    results = _command.Results(args.output, "hmc.json")
    results["environment"] = environment()
    for name in args.sets:
        problem = reference.problem(name, args.data)
        print(f"{name}: {len(problem.x)} examples, noise {problem.noise:g}", flush=True)
        results.has(name, _command.settings(args, "steps", "chains", "warmup", "draws", "elbo_draws", "seed"))
        run_set(problem, args, results.setdefault(name, {}), results.save)
        results.save()
        print(table(results[name]), flush=True)
    return results


if __name__ == "__main__":
    main(sys.argv[1:])
