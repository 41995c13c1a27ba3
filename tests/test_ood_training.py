"""Trainings of `bdl.ood.training`: one step of each by hand, in float64, then fits, errors and the toy of the paper."""

import functools
from argparse import Namespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bdl
from bdl._keys import derive
from bdl.ood import training
from bdl.ood.training._class_probs import class_log_probs
from bdl.ood.training._confidence_loss import kl_from_uniform
from bdl.ood.training._learned_confidence import hinted
from tests.arrays import normals
from tests.finite_differences import gradient

N, D, K, RATE, WEIGHT, DATA_SIZE = 5, 2, 3, 0.1, 0.7, 40
X, Y = normals(0, N, D), jnp.array([0, 2, 1, 1, 0])
OUTLIER = 1.5 * normals(1, 1, D)  # one: whichever rows are drawn, they are this
LINEAR = bdl.network(lambda params, x: x @ params["w"], {"w": normals(2, D, K)})
WIDER = bdl.network(LINEAR.function.fn, {"w": normals(3, D, K + 1)})


def start(network=LINEAR, likelihood=None, families=bdl.families.point):
    posterior = bdl.variational(network.params, families)
    return posterior, bdl.Model(network, likelihood or bdl.likelihoods.Categorical(), bdl.priors.normal(scale=1.0))


def one_step(algorithm, posterior, model, key=7, x=X, y=Y):
    key = jax.random.key(key)
    state = algorithm.init(key, posterior, model, num_data=DATA_SIZE)
    return jax.jit(algorithm.step)(key, state, (x, y))


def log_softmax(f):
    f = f - f.max(-1, keepdims=True)
    return f - np.log(np.exp(f).sum(-1, keepdims=True))


def nll(f):
    return -log_softmax(f)[np.arange(N), np.asarray(Y)].mean()


def from_uniform(f):
    return (-log_softmax(f).mean(-1) - np.log(f.shape[-1])).mean()


def energies(f):
    return -np.log(np.exp(f).sum(-1))


def normalised(f, temperature):
    return f / (temperature * np.linalg.norm(f, axis=-1, keepdims=True))


def with_hints(f, share):
    p, c = np.exp(log_softmax(f[:, :-1])), 1 / (1 + np.exp(-f[:, -1:]))
    p = p if share == 0 else c * p + (1 - c) * np.eye(K)[np.asarray(Y)]
    return -np.log(p[np.arange(N), np.asarray(Y)]).mean()


def unsure(f):
    return np.log1p(np.exp(-f[:, -1])).mean()


def bounded(f, g):
    return (np.maximum(0, energies(f) + 2.0) ** 2).mean() + (np.maximum(0, -1.0 - energies(g)) ** 2).mean()


def log_prior(w):
    return -0.5 * (w**2).sum() - 0.5 * w.size * np.log(2 * np.pi)


def none(f, g):
    return 0.0


# From a name to the algorithm, and its two terms of the logits f at the inliers and g at the outlier.
SGD = optax.sgd(RATE)
HINTS = training.CategoricalWithConfidence()
CASES = {
    "confidence_loss": (
        training.confidence_loss(SGD, OUTLIER, weight=WEIGHT), lambda f: nll(f), lambda f, g: from_uniform(g)
    ),
    "outlier_exposure": (
        training.outlier_exposure(SGD, OUTLIER, weight=WEIGHT, outlier_batch_size=2),
        nll, lambda f, g: from_uniform(g) + np.log(K),
    ),
    "energy_bound": (training.energy_bound(SGD, OUTLIER, inside=-2.0, outside=-1.0, weight=WEIGHT), nll, bounded),
    "logit_norm": (training.logit_norm(SGD, temperature=0.5), lambda f: nll(normalised(f, 0.5)), none),
    "with hints": (
        training.learned_confidence(SGD, weight=WEIGHT, hint_rate=1.0),
        lambda f: with_hints(f, 1), lambda f, g: unsure(f),
    ),
    "without hints": (
        training.learned_confidence(SGD, weight=WEIGHT, hint_rate=0.0),
        lambda f: with_hints(f, 0), lambda f, g: unsure(f),
    ),
}  # fmt: skip


@pytest.mark.usefixtures("strict_dtypes")
@pytest.mark.parametrize("name", CASES)
def test_a_step_is_that_of_the_loss_by_hand(name):
    algorithm, fit, penalty = CASES[name]
    hints = "hints" in name
    network = WIDER if hints else LINEAR
    after, info = one_step(algorithm, *start(network, HINTS if hints else None))
    x, outlier, w = (np.asarray(a, np.float64) for a in (X, OUTLIER, network.params["w"]))
    terms = lambda w: (fit(x @ w), penalty(x @ w, outlier @ w))
    loss = lambda w: terms(w)[0] + WEIGHT * terms(w)[1] - log_prior(w) / DATA_SIZE
    np.testing.assert_allclose(after.posterior.tree["w"], w - RATE * gradient(loss, w), rtol=1e-5, atol=2e-6)
    np.testing.assert_allclose(info.log_likelihood, -DATA_SIZE * terms(w)[0], rtol=2e-6)
    np.testing.assert_allclose(info.kl, -log_prior(w), rtol=2e-6)
    np.testing.assert_allclose(info.elbo, -DATA_SIZE * terms(w)[0] + log_prior(w), rtol=2e-6)
    np.testing.assert_allclose(info.gradient_norm, np.linalg.norm(gradient(loss, w)), rtol=1e-5)
    assert after.step == 1
    if name != "logit_norm":
        np.testing.assert_allclose(info.penalty, terms(w)[1], rtol=5e-6)


def test_the_weight_of_a_confidence_follows_its_budget():
    cost = unsure(np.asarray(X @ WIDER.params["w"], np.float64))
    for budget, factor in ((0.99 * cost, 1 / 0.99), (1.01 * cost, 1 / 1.01)):
        after, info = one_step(training.learned_confidence(SGD, budget=budget, weight=0.2), *start(WIDER, HINTS))
        np.testing.assert_allclose([info.weight, after.weight], [0.2, 0.2 * factor], rtol=1e-6)


def test_half_of_the_examples_get_hints():
    outputs = np.tile([0.0, 0.0, -20.0], (4_000, 1)).astype(np.float32)
    fit, cost = hinted(jax.random.key(0), HINTS(jnp.asarray(outputs)), outputs[:, -1], np.zeros(4_000, int), 0.5)
    # Without a hint log ½, with one log 1.
    np.testing.assert_allclose(fit, 0.5 * np.log(0.5), atol=5 * 0.5 * np.log(2) / np.sqrt(4_000))
    np.testing.assert_allclose(cost, 20, rtol=1e-6)


def test_extreme_logits_have_finite_losses_and_gradients():
    f = jnp.array([[80.0, -80.0, 0.0, 80.0], [0.0, 0.0, 0.0, -80.0]])
    y = np.array([1, 2])

    def losses(f):
        return (
            *hinted(jax.random.key(0), HINTS(f), f[:, -1], y, 1.0),
            kl_from_uniform("test", bdl.likelihoods.Categorical()(f[:, :-1])).sum(),
            training._logit_norm.NormalisedLogits(bdl.likelihoods.Categorical(), 0.04)(f[:, :-1]).log_prob(y).sum(),
        )

    values, gradients = jax.jit(lambda f: (losses(f), jax.jacrev(losses)(f)))(f)
    assert all(np.isfinite(a).all() for a in (*values, *gradients))
    np.testing.assert_allclose(kl_from_uniform("test", bdl.likelihoods.Categorical()(f[1:, :-1])), 0, atol=1e-6)


@pytest.mark.parametrize("non_saturating", [True, False])
def test_a_step_of_the_gan_is_algorithm_1_by_hand(non_saturating):
    made = bdl.network(lambda params, z: z @ params["g"], {"g": normals(4, 4, D)})
    told = bdl.network(lambda params, x: x @ params["d"], {"d": normals(5, D, 1)})
    algorithm = training.confidence_gan(
        SGD, made, told, latent_size=4, weight=WEIGHT, generator_weight=0.3, non_saturating=non_saturating,
        generator_optimizer=optax.sgd(0.2), discriminator_optimizer=optax.sgd(0.3),
    )  # fmt: skip
    after, info = one_step(algorithm, *start())
    x, w, g, d = (np.asarray(a, np.float64) for a in (X, LINEAR.params["w"], made.params["g"], told.params["d"]))
    z1, z2, z3 = (
        np.asarray(jax.random.normal(derive(derive(jax.random.key(7), name), "latents"), (N, 4)), np.float64)
        for name in ("discriminator", "generator", "classifier")
    )
    softplus = lambda a: np.log1p(np.exp(a)).mean()
    of_d = lambda d: softplus(-x @ d) + softplus(z1 @ g @ d)
    d_after = d - 0.3 * gradient(of_d, d)
    fooled = (lambda f: softplus(-f)) if non_saturating else (lambda f: -softplus(f))
    of_g = lambda g: fooled(z2 @ g @ d_after) + 0.3 * from_uniform(z2 @ g @ w)
    g_after = g - 0.2 * gradient(of_g, g)
    excess = lambda w: from_uniform(z3 @ g_after @ w)
    w_after = w - RATE * gradient(lambda w: nll(x @ w) + WEIGHT * excess(w) - log_prior(w) / DATA_SIZE, w)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=5e-6)
    close(after.discriminator.network.params["d"], d_after)
    close(after.generator.network.params["g"], g_after)
    close(after.posterior.tree["w"], w_after)
    close([info.discriminator_loss, info.generator_loss, info.penalty], [of_d(d), of_g(g), excess(w)])
    close(info.elbo, -DATA_SIZE * nll(x @ w) + log_prior(w))
    drawn = training.generate(jax.random.key(9), after, 6)
    close(drawn, np.asarray(jax.random.normal(jax.random.key(9), (6, 4))) @ g_after)


class Normalised(nn.Module):
    """Batch normalisation before a dense layer."""

    @nn.compact
    def __call__(self, x, train=False):
        return nn.Dense(K, name="head")(nn.BatchNorm(not train, momentum=0.5)(x))


def test_outliers_are_normalised_with_the_inliers():
    module = Normalised()
    network = bdl.from_linen(module, module.init(jax.random.key(0), X))
    after, info = one_step(training.confidence_loss(optax.sgd(0.0), OUTLIER), *start(network))
    rows = np.concatenate([X, np.repeat(OUTLIER, N, 0)]).astype(np.float64)
    mean = after.model.network.state["batch_stats"]["BatchNorm_0"]["mean"]
    np.testing.assert_allclose(mean, 0.5 * rows.mean(0), rtol=1e-5)
    head = network.params["head"]
    f = (rows - rows.mean(0)) / np.sqrt(rows.var(0) + 1e-5) @ np.asarray(head["kernel"]) + np.asarray(head["bias"])
    np.testing.assert_allclose(info.log_likelihood, -DATA_SIZE * nll(f[:N]), rtol=1e-4)
    np.testing.assert_allclose(info.penalty, from_uniform(f[N:]), rtol=1e-4)


@pytest.mark.slow
def test_any_posterior_and_likelihood_of_classes_and_a_vmap_over_keys():
    likelihood = bdl.likelihoods.HeteroscedasticCategorical(1)
    network = bdl.network(LINEAR.function.fn, {"w": normals(8, D, 2 * K)})
    posterior, model = start(network, likelihood, bdl.families.normal(0.1))
    algorithm = training.confidence_loss(optax.adam(0.03), 5 * normals(3, 7, D), weight=optax.linear_schedule(0, 1, 9))

    def run(key):
        fitted = bdl.fit(key, algorithm, posterior, model, (X, Y), num_steps=60, batch_size=4, progress=False)
        return fitted.history.penalty, fitted.history.kl

    penalty, kl = jax.vmap(run)(jax.random.split(jax.random.key(1), 2))
    assert np.isfinite(penalty).all()
    assert (penalty[:, -20:].mean(1) < 0.5 * penalty[:, :5].mean(1)).all()
    assert not np.array_equal(penalty[0], penalty[1])
    np.testing.assert_allclose(kl[0, 0], bdl.kl(jax.random.key(0), posterior, model.prior), rtol=1e-5)


def test_images_and_dense_labels_are_summed_as_the_likelihood_is():
    network = bdl.network(lambda params, x: x[..., None] @ params["w"], {"w": normals(6, 1, K)})
    _, info = one_step(
        training.confidence_loss(SGD, OUTLIER), *start(network), y=jnp.stack([Y, Y], 1)
    )  # each of the two columns of x is a pixel
    f, g = (np.asarray(a, np.float64)[..., None] @ np.asarray(network.params["w"]) for a in (X, OUTLIER))
    np.testing.assert_allclose(info.log_likelihood, -DATA_SIZE * (nll(f[:, 0]) + nll(f[:, 1])), rtol=1e-5)
    np.testing.assert_allclose(info.penalty, 2 * from_uniform(g), rtol=1e-5)


def test_a_generator_makes_images_in_their_range():
    images = jax.ShapeDtypeStruct((1, 8, 12, 3), jnp.float32)
    generator, discriminator = training.dcgan(jax.random.key(0), images, latent_size=5, channels=(4, 2), low=-1.0)

    @jax.jit
    def run(z):
        params = jax.tree.map(lambda a: 100 * a, generator.params)  # so that pixels reach both ends
        found, state = generator.apply(params, generator.state, z, train=True)
        return found, discriminator.apply(discriminator.params, discriminator.state, found)[0], state

    found, logits, state = run(normals(0, 6, 5))
    assert found.shape == (6, 8, 12, 3)
    assert logits.shape == (6,)
    assert -1 <= found.min() < -0.9
    assert 0.9 < found.max() <= 1
    assert jax.tree.structure(state) == jax.tree.structure(generator.state)


def step_of(algorithm, likelihood=None, **batch):
    return lambda: one_step(algorithm(), *start(likelihood=likelihood), **batch)


POINT = bdl.network(lambda params, x: x * params["s"], {"s": jnp.ones(())})
PIXELS = jax.ShapeDtypeStruct((1, 6, 6, 1), jnp.float32)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (step_of(lambda: training.confidence_loss(SGD, normals(0, 4, D + 1))), r"float32\[N, 2\], got float32\[N, 3\]"),
        (step_of(lambda: training.energy_bound(SGD, jnp.ones((4, D), int))), r"got int32\[N, 2\]. Resize, rescale"),
        (step_of(lambda: training.confidence_loss(SGD, {"a": OUTLIER})), r"got a float32\[N, 2\]"),
        (lambda: training.confidence_loss(SGD, jnp.array([[1.0, jnp.nan]])), "nan at row 0, column 1"),
        (lambda: training.outlier_exposure(SGD, OUTLIER[:0]), "empty"),
        (lambda: training.outlier_exposure(SGD, OUTLIER, weight=-1.0), "`weight` of at least 0, got -1.0"),
        (lambda: training.confidence_loss(SGD, OUTLIER, outlier_batch_size=0), "`outlier_batch_size` of at least 1"),
        (lambda: training.energy_bound(SGD, OUTLIER, inside=-5.0, outside=-23.0), "inside < outside"),
        (lambda: training.logit_norm(SGD, temperature=0.0), "`temperature` above 0, got 0.0"),
        (lambda: training.learned_confidence(SGD, budget=0.0), "`budget` above 0"),
        (lambda: training.learned_confidence(SGD, hint_rate=1.5), "`hint_rate` in"),
        (step_of(lambda: training.learned_confidence(SGD)), "CategoricalWithConfidence()"),
        (lambda: HINTS(jnp.ones((4, 2))), "one unit more than classes"),
        (lambda: class_log_probs("test", bdl.likelihoods.Bernoulli()(jnp.ones((4, 2)))), "one class out of K"),
        (
            step_of(lambda: training.logit_norm(SGD), bdl.likelihoods.Normal(), y=jnp.ones((N, K))),
            "whose outputs are logits, got one of Normal",
        ),
        (step_of(lambda: training.confidence_gan(SGD, POINT, POINT, latent_size=5)), "the generator to make what is"),
        (step_of(lambda: training.confidence_gan(SGD, POINT, POINT, latent_size=D)), r"one logit.*\(5, 2\)"),
        (lambda: training.confidence_gan(SGD, POINT, POINT, latent_size=0), "`latent_size` of at least 1"),
        (lambda: training.confidence_gan(SGD, POINT, POINT, generator_weight=np.inf), "finite `generator_weight`"),
        (lambda: training.dcgan(jax.random.key(0), PIXELS), "multiples of 4"),
        (lambda: training.dcgan(jax.random.key(0), PIXELS, low=1.0), "low < high"),
    ],
)
def test_bad_input_is_refused(run, message):
    with pytest.raises(ValueError, match=message):
        run()


def test_the_score_of_a_learned_confidence_is_higher_for_what_is_less_sure():
    found = training.unconfidence(np.array([[0.0, 1.0, 3.0], [9.0, 1.0, -3.0]], np.float16))
    np.testing.assert_allclose(found, 1 / (1 + np.exp([3.0, -3.0])), rtol=1e-6)
    assert found.dtype == jnp.float32


@pytest.mark.slow
def test_outliers_near_the_data_teach_more_than_scattered_ones(load_benchmark):
    study = load_benchmark("lee2018")
    rows = study.toy(Namespace(steps=1_500, seed=0, picture=None))
    assert all(row["inside"] > 0.95 for row in rows.values())
    around = {name: row["around"] for name, row in rows.items()}
    assert around["boundary outliers"] < 0.7 < 0.8 < around["scattered outliers"] < 0.9 < around["cross-entropy"]
    # A network of ReLUs goes on as it was outside of all that it has seen.
    assert rows["scattered outliers"]["far"] < 0.6 < 0.8 < rows["boundary outliers"]["far"]


@pytest.mark.slow
def test_the_study_of_images_runs_and_is_not_run_again(load_benchmark, tmp_path):
    rng = np.random.default_rng(0)
    pixels = lambda count: rng.integers(0, 256, (count, 28, 28)).astype(np.uint8)
    labels = rng.integers(0, 10, 200).astype(np.uint8)
    clothes = {"x_train": pixels(200), "y_train": labels, "x_test": pixels(200), "y_test": labels}
    files = {
        "fashion_mnist/fashion_mnist": clothes,
        "mnist/mnist": {"x_train": pixels(50), "x_test": pixels(50)},
        "notmnist/notmnist_t10k": {"x_test": pixels(50)},
        "omniglot/images_background_small1_28x28": {"x": pixels(50)},
    }  # fmt: skip
    for name, arrays in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        np.savez(tmp_path / name, **arrays)
    command = ["images", "--fast", "--data", str(tmp_path), "--output", str(tmp_path), "--picture", str(tmp_path)]
    study = load_benchmark("lee2018")
    rows = study.main(command)["images, 3 steps, seed 0"]
    assert len(rows) == 7
    assert all(np.isfinite(value) for row in rows.values() for value in row.values())
    assert (tmp_path / "lee-joint.png").exists()
    assert study.main(command)["images, 3 steps, seed 0"] == rows
