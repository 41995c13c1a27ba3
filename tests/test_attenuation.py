"""Learned loss attenuation: examples whose targets mean nothing are found, and teach the network nothing."""

import jax
import numpy as np
import optax
import pytest

import bdl

KEY = jax.random.key(0)


@pytest.mark.slow
def test_corrupted_targets_in_one_region_do_not_spoil_the_rest():
    """Targets are sin 3x with noise of 0.1; right of x = 1 they are replaced by noise of a standard deviation of 3."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-2.0, 2.0, (600, 1)).astype(np.float32)
    corrupted = x > 1.0
    clean = np.sin(3.0 * x) + 0.1 * rng.normal(size=x.shape)
    y = np.where(corrupted, 3.0 * rng.normal(size=x.shape), clean).astype(np.float32)
    grid = np.linspace(-1.9, 0.8, 200, dtype=np.float32)[:, None]
    inside = np.linspace(1.2, 1.9, 50, dtype=np.float32)[:, None]

    def fit(outputs, likelihood):
        network = bdl.networks.mlp(KEY, x[:1], outputs, widths=(50, 50))
        posterior = bdl.variational(network.params, bdl.families.point)
        algorithm = bdl.inference.vi(optax.adam(optax.cosine_decay_schedule(5e-3, 3_000)))
        data = (x, y)
        fitted = bdl.fit(
            KEY, algorithm, posterior, bdl.Model(network, likelihood), data, num_steps=3_000, progress=False
        )
        return [bdl.predict(KEY, fitted.posterior, fitted.model, new) for new in (grid, inside)]

    plain, plain_inside = fit(1, bdl.likelihoods.Normal(scale=bdl.learned(0.5)))
    found, found_inside = fit(2, bdl.likelihoods.HeteroscedasticNormal())
    scale = lambda prediction: np.sqrt(np.asarray(prediction.aleatoric))
    # A quarter of 600 targets is corrupted: the standard error of the standard deviation of 150 is 6 %.
    assert 2.0 < scale(found_inside).mean() < 4.0
    assert scale(found).mean() < 0.2
    assert scale(plain_inside)[0] == scale(plain)[0] > 0.8  # one size for both
    error = lambda prediction: float(np.sqrt(np.mean((prediction.mean - np.sin(3.0 * grid)) ** 2)))
    print(f"\nerror {error(found):.3f} against {error(plain):.3f}; scale {scale(found).mean():.3f}, "
          f"inside {scale(found_inside).mean():.2f}, plain {scale(plain).mean():.2f}")  # fmt: skip
    assert error(found) < 0.7 * error(plain)
