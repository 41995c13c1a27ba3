"""The UCI benchmark, on made-up data in the layout of the published sets."""

import json

import jax
import numpy as np
import pytest

N, D, SPLITS = 200, 3, 2
NOISE = 3.0


@pytest.fixture(scope="module")
def uci(load_benchmark):
    return load_benchmark("uci")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A linear target with known noise, columns out of order, a constant feature."""
    rng = np.random.default_rng(0)
    x = rng.normal(50.0, 20.0, (N, D))
    x[:, 2] = 7.0
    y = 100.0 + x @ [[0.5], [-0.2], [0.0]] + NOISE * rng.normal(size=(N, 1))
    order = np.stack([rng.permutation(N) for _ in range(SPLITS)])
    path = tmp_path_factory.mktemp("uci")
    np.savez(
        path / "line.npz",
        data=np.concatenate([y, x], 1), index_features=np.arange(1, D + 1), index_target=np.array([0]),
        index_train=order[:, :180], index_test=order[:, 180:], n_hidden=np.array([8]), n_epochs=np.array([1]),
        dropout_rates=np.array([0.005, 0.3]), tau_values=np.array([0.001, 1 / NOISE**2]),
    )  # fmt: skip
    np.savez(path / "line.gal2018_results.npz", test_MC_rmse=np.full(SPLITS, NOISE), test_ll=np.full(SPLITS, -2.5))
    return path


def test_parts_are_standardised_by_training_examples_alone(uci, folder):
    data = uci.read(folder, "line")
    part = uci.part(data, validation=True)
    assert part.x.shape == (SPLITS, 144, D)
    assert part.x_new.shape == (SPLITS, 36, D)
    np.testing.assert_allclose(part.x.mean(1), 0.0, atol=1e-5)
    np.testing.assert_allclose(part.x.std(1), [[1.0, 1.0, 0.0]] * SPLITS, atol=1e-5)  # a constant stays finite
    train, held_out = data["index_train"][:, :144], data["index_train"][:, 144:]
    y = data["data"][:, 0]
    np.testing.assert_allclose(part.unit, y[train].std(1), rtol=1e-6)
    expected = (y[held_out] - y[train].mean(1, keepdims=True)) / y[train].std(1, keepdims=True)
    np.testing.assert_allclose(part.y_new[..., 0], expected, atol=1e-5)
    whole = uci.part(data, validation=False)
    assert whole.x.shape == (SPLITS, 180, D)
    assert whole.x_new.shape == (SPLITS, 20, D)


@pytest.mark.slow
def test_finds_the_noise_and_reports_in_the_targets_units(uci, folder, tmp_path, capsys):
    command = ["--data", str(folder), "--sets", "line", "--epochs", "400", "--draws", "100", "--validation-draws", "20"]
    results = uci.main([*command, "--noise", "grid", "learned", "--output", str(tmp_path)])
    for noise in ("grid", "learned"):
        result = results["line"][noise]
        assert result["rate"] == [0.005] * SPLITS
        # Twenty test points of noise 3: the error of their root mean square is 0.5, that of the mean density 0.16.
        np.testing.assert_allclose(result["rmse"], NOISE, atol=5 * 0.5)
        expected = -0.5 * np.log(2 * np.pi * NOISE**2) - 0.5
        np.testing.assert_allclose(result["log_likelihood"], expected, atol=5 * 0.16)
    assert results["line"]["grid"]["tau"] == pytest.approx([1 / NOISE**2] * SPLITS)
    assert "| line | grid |" in capsys.readouterr().out
    assert json.loads((tmp_path / "uci.json").read_text()) == json.loads(json.dumps(results))

    uci.main([*command, "--noise", "grid", "learned", "--output", str(tmp_path)])
    assert capsys.readouterr().out.count("already in") == 2


@pytest.mark.slow
def test_every_split_rate_and_scale_has_its_own_network(uci, folder):
    part = uci.part(uci.read(folder, "line"), validation=True)
    rates = np.array([[0.1, 0.5], [0.1, 0.2]], np.float32)
    scales = np.array([[1.0, 0.2, 1.0], [2.0, 3.0, 1.0]], np.float32)
    same = [np.stack([part.x[0]] * SPLITS), np.stack([part.y[0]] * SPLITS)]
    keys = jax.random.wrap_key_data(np.array([[0, 1]] * SPLITS, np.uint32))
    posterior, model, finite = uci.fit_all(keys, *same, rates, scales, noise="grid", hidden=8, num_steps=5)
    assert bool(finite.all())
    assert len(posterior.families) == 2
    for family in posterior.families.values():
        np.testing.assert_array_equal(family.rate, np.broadcast_to(rates[:, :, None], (2, 2, 3)))
    np.testing.assert_allclose(model.likelihood.scale, np.broadcast_to(scales[:, None, :], (2, 2, 3)), rtol=1e-6)
    # The data and the keys of both splits are the same, so networks of the same rate and scale are.
    for weights in jax.tree.leaves(posterior.mean):
        np.testing.assert_allclose(weights[0, 0, 0], weights[0, 0, 2], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(weights[0, 0, 0], weights[1, 0, 2], rtol=1e-4, atol=1e-6)
        assert np.abs(weights[0, 0, 0] - weights[0, 1, 0]).max() > 1e-5
