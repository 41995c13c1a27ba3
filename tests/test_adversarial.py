"""Adversarial inputs: steps by hand on a linear network, the ball and the bounds that they keep to, what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bdl
from bdl import ood

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
WEIGHTS = RNG.normal(size=(5, 3)).astype(np.float32)
LINE = bdl.network(lambda p, x: x @ p["w"], {"w": jnp.asarray(WEIGHTS)})
X = RNG.uniform(0.3, 0.7, (12, 5)).astype(np.float32)
LABELS = np.arange(12) % 3


def slope(x, labels):
    """∇ₓ of the cross entropy of a linear network: W (p − onehot)."""
    logits = x.astype(np.float64) @ WEIGHTS
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return (probs - np.eye(3)[labels]) @ WEIGHTS.T


def losses(x, labels=LABELS):
    logits = np.asarray(x, np.float64) @ WEIGHTS
    return np.log(np.exp(logits).sum(1)) - logits[np.arange(len(logits)), labels]


def test_fgsm_by_hand(strict_dtypes):
    expected = X + 0.1 * np.sign(slope(X, LABELS))
    np.testing.assert_allclose(ood.fgsm(LINE, X, LABELS, epsilon=0.1), expected, rtol=1e-6)
    towards = ood.fgsm(LINE, X, LABELS, epsilon=0.1, targeted=True)
    np.testing.assert_allclose(towards, X - 0.1 * np.sign(slope(X, LABELS)), rtol=1e-6)
    clipped = ood.fgsm(LINE, X, LABELS, epsilon=0.5)
    np.testing.assert_allclose(clipped, np.clip(X + 0.5 * np.sign(slope(X, LABELS)), 0, 1), rtol=1e-6)
    far = ood.fgsm(LINE, X, LABELS, epsilon=5.0, bounds=None)
    np.testing.assert_allclose(far, X + 5 * np.sign(slope(X, LABELS)), rtol=1e-6)


@pytest.mark.parametrize("norm", ["inf", "2"])
def test_pgd_without_a_random_start_by_hand(norm, strict_dtypes):
    epsilon, step, x = 0.2, 0.08, X.astype(np.float64)
    for _ in range(4):
        g = slope(x, LABELS)
        x = x + step * (np.sign(g) if norm == "inf" else g / np.linalg.norm(g, axis=1, keepdims=True))
        change = x - X
        if norm == "inf":
            change = np.clip(change, -epsilon, epsilon)
        else:
            change = change * np.minimum(1, epsilon / np.linalg.norm(change, axis=1, keepdims=True))
        x = np.clip(X + change, 0, 1)
    options = {"epsilon": epsilon, "step_size": step, "num_steps": 4, "norm": norm}
    np.testing.assert_allclose(ood.pgd(None, LINE, X, LABELS, **options), x, rtol=2e-5)


@pytest.mark.parametrize("norm", ["inf", "2"])
def test_pgd_stays_in_the_ball_and_in_bounds(norm):
    options = {"epsilon": 0.25, "num_steps": 20, "norm": norm}
    found = np.asarray(ood.pgd(KEY, LINE, X, LABELS, **options))
    size = np.abs(found - X).max(1) if norm == "inf" else np.linalg.norm(found - X, axis=1)
    assert size.max() < 0.25 * (1 + 1e-5)
    assert found.min() >= 0
    assert found.max() <= 1
    assert (losses(found) > losses(X)).all()
    towards = ood.pgd(KEY, LINE, X, LABELS, targeted=True, **options)
    assert (losses(towards) < losses(X)).all()


@pytest.mark.parametrize("norm", ["inf", "2"])
def test_the_random_start_is_uniform_in_the_ball(norm):
    still = bdl.network(lambda p, x: 0.0 * (x @ p["w"]), {"w": jnp.ones((2, 3))})
    x = np.full((4000, 2), 10.0, np.float32)
    labels = np.zeros(4000, int)
    start = ood.pgd(KEY, still, x, labels, epsilon=2.0, num_steps=1, norm=norm, bounds=None)
    change = (np.asarray(start) - x) / 2
    size = np.abs(change).max(1) if norm == "inf" else np.linalg.norm(change, axis=1)
    share = np.sort(size**2)  # the share of the ball's area within this distance is uniform on [0, 1]
    assert np.abs(share - (np.arange(4000) + 0.5) / 4000).max() < 1.95 / np.sqrt(4000)  # Kolmogorov, one in a thousand
    assert np.abs(change.mean(0)).max() < 5 * 0.58 / np.sqrt(4000)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_images_of_any_number_of_channels(channels):
    images = RNG.uniform(0.3, 0.7, (3, 4, 4, channels)).astype(np.float32)
    weights = jnp.asarray(RNG.normal(size=(channels, 3)), jnp.float32)
    network = bdl.network(lambda p, x: x.mean((1, 2)) @ p["w"], {"w": weights})
    moved = ood.fgsm(network, images, np.arange(3), epsilon=0.01)
    np.testing.assert_allclose(np.abs(moved - images), 0.01, rtol=1e-4)


def test_the_network_is_not_traced_again():
    calls = []

    def function(x):
        calls.append(1)
        return x @ WEIGHTS

    attack = lambda seed, x: ood.pgd(jax.random.key(seed), function, x, LABELS, epsilon=0.1)
    attack(0, X)
    once = len(calls)
    attack(1, X[::-1])
    ood.pgd(jax.random.key(2), function, X, LABELS[::-1].copy(), epsilon=0.3, num_steps=7)
    assert len(calls) == once
    assert ood.fgsm(function, jnp.asarray(X, jnp.bfloat16), LABELS, epsilon=0.1).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        (lambda: ood.fgsm(LINE, (255 * X).astype(np.uint8), LABELS, epsilon=8), "got uint8 of shape .12, 5.. Scale"),
        (lambda: ood.fgsm(LINE, 2 * X, LABELS, epsilon=0.1), r"expected inputs within bounds=\(0.0, 1.0\), got values"),
        (lambda: ood.fgsm(LINE, X, LABELS + 1, epsilon=0.1), "fgsm: expected labels in 0, …, 2, got 3"),
        (lambda: ood.pgd(KEY, LINE, X, LABELS - 1, epsilon=0.1), "pgd: expected labels in 0, …, 2, got -1"),
        (
            lambda: ood.fgsm(LINE, X, LABELS[:3], epsilon=0.1),
            r"integer labels \[12\], got int.* of shape \(3,\)",
        ),
        (lambda: ood.fgsm(LINE, X, LABELS, epsilon=0.0), "expected epsilon above 0"),
        (lambda: ood.fgsm(LINE, X, LABELS, epsilon=0.1, bounds=(1.0, 0.0)), "low < high"),
        (
            lambda: ood.fgsm(lambda x: x.sum(-1), X, LABELS, epsilon=0.1),
            r"\[12, K\], got outputs of shape \(12,\)",
        ),
        (lambda: ood.pgd(KEY, LINE, X, LABELS, epsilon=0.1, norm="1"), 'norm="inf" or norm="2", got \'1\''),
        (lambda: ood.pgd(KEY, LINE, X, LABELS, epsilon=0.1, num_steps=0), "num_steps as a whole number of at least 1"),
        (lambda: ood.pgd(KEY, LINE, X, LABELS, epsilon=0.1, step_size=-1.0), "step_size above 0"),
    ],
)
def test_errors_say_what_was_expected(attack, message):
    with pytest.raises(ValueError, match=message):
        attack()


@pytest.mark.slow
def test_mahalanobis_sees_adversarial_inputs_of_a_network():
    """Two blobs and a small network: what crosses the boundary lies where no training data lie."""
    x = np.concatenate([RNG.normal(size=(200, 2)) * 0.05 + c for c in (0.3, 0.7)]).astype(np.float32)
    labels = np.repeat([0, 1], 200)
    line = bdl.network(lambda p, x: (x - 0.5) @ p["w"], {"w": jnp.array([[-9.0, 9.0], [-9.0, 9.0]])})
    detector = ood.through(line, ood.mahalanobis(line.apply(line.params, {}, x)[0], labels)).held_out(x[::2])
    adversarial = ood.pgd(KEY, line, x[1::2], labels[1::2], epsilon=0.15)
    assert np.mean(detector.flag(adversarial)) > 0.8
    assert np.mean(detector.flag(x[1::2])) < 0.12
