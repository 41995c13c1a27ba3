"""The benchmarks after Kendall and Gal, on made-up data in the layout of the published sets."""

import json

import numpy as np
import pytest

N, PARTS = 200, ("train", "test")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Noise in place of pictures, and few of them."""
    path, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    pixels = lambda *shape: rng.integers(0, 256, (N, *shape)).astype(np.uint8)
    classes = lambda number, *shape: rng.integers(0, number, (N, *shape)).astype(np.uint8)
    table, order = rng.normal(size=(N, 5)), np.stack([rng.permutation(N)])
    digits = {f"{name}_{part}": pixels(28, 28) if name == "x" else classes(10) for name in "xy" for part in PARTS}
    streets = {f"x_{part}": pixels(90, 120, 3)[:8] for part in ("train", "val", "test")}
    streets |= {f"y_{part}": classes(12, 90, 120)[:8] for part in ("train", "val", "test")}
    files = {
        "uci/power-plant": {
            "data": table, "index_features": np.arange(4), "index_target": np.array([4]),
            "index_train": order[:, :180], "index_test": order[:, 180:],
        },
        "mnist/mnist": digits,
        "fashion_mnist/fashion_mnist": digits,
        "notmnist/notmnist_t10k": {"images": pixels(28, 28), "labels": classes(10)},
        "cifar10/cifar10_train_first10k": {"x_train": pixels(32, 32, 3), "y_train": classes(10)},
        "cifar10/cifar10_test": {"x_test": pixels(32, 32, 3), "y_test": classes(10)},
        "cifar10/cifar10h_counts": {"counts": rng.integers(1, 9, (N, 10))},
        "cifar10/cifar10n_train_labels": {
            f"{name}_label": classes(10) for name in ("clean", "aggre", "worse")
        } | {"random_label1": classes(10)},
        "camvid_120x90/camvid_120x90": streets,
    }  # fmt: skip
    for name, arrays in files.items():
        (path / name).parent.mkdir(exist_ok=True)
        np.savez(path / name, **arrays)
    return path


def finite(rows):
    return all(np.isfinite(value) for row in rows.values() for value in row.values())


@pytest.mark.slow
def test_results_are_kept_and_not_run_again(load_benchmark, folder, tmp_path, capsys):
    study = load_benchmark("kendall_gal")
    command = ["regression", "--fast", "--data", str(folder), "--output", str(tmp_path)]
    results = study.main(command)
    assert list(results["regression, dropout"]) == ["45", "90", "180"]
    assert finite(results["regression, dropout"])
    assert json.loads((tmp_path / "kendall_gal.json").read_text()) == json.loads(json.dumps(results))
    assert "| 180 |" in capsys.readouterr().out
    kept = json.dumps(results["regression, dropout"])
    assert json.dumps(study.main(command)["regression, dropout"]) == kept


def test_a_missing_file_is_named(load_benchmark, tmp_path):
    with pytest.raises(SystemExit, match="power-plant.npz: pass --data DIR or set BDL_DATA to the folder above `uci`"):
        load_benchmark("kendall_gal").main(["regression", "--fast", "--data", str(tmp_path)])


def test_confused_labels_are_a_fifth_of_two_classes(load_benchmark):
    study = load_benchmark("kendall_gal")
    true = np.random.default_rng(0).integers(0, 10, 10_000)
    changed = study._confused(true, 1) != true
    two = np.isin(true, study.SWAPPED)
    assert not changed[~two].any()
    np.testing.assert_allclose(changed[two].mean(), 0.2, atol=5 * 0.4 / np.sqrt(two.sum()))


@pytest.mark.slow
@pytest.mark.parametrize("posterior", ["dropout", "normal"])
@pytest.mark.parametrize("name", ["digits", "labels", "humans", "annotators"])
def test_studies_of_images_run(load_benchmark, folder, name, posterior):
    study = load_benchmark("kendall_gal")
    results = study.main([name, "--fast", "--data", str(folder), "--posterior", posterior])
    assert finite(results[f"{name}, {posterior}"])


@pytest.mark.slow
def test_dense_prediction_runs(load_benchmark, folder, tmp_path):
    study = load_benchmark("camvid")
    command = ["--fast", "--data", str(folder / "camvid_120x90"), "--output", str(tmp_path)]
    results = study.main([*command, "--sizes"])
    assert {"plain", "aleatoric", "epistemic", "both", "both, 1/4", "both, 1/2"} <= set(results)
    assert json.loads((tmp_path / "camvid.json").read_text()) == json.loads(json.dumps(results))
    study.main([*command, "--family", "normal", "--models", "both", "--seed", "1"])
    assert "both, seed 1" in json.loads((tmp_path / "camvid_normal.json").read_text())
