"""The comparison of detectors: its numbers are those of the metrics, its runs merge, its tables say what they hold."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from bdl import ood
from tests.arrays import normals

IN, NEAR, FAR = (np.asarray(normals(seed, count, 3)) for seed, count in enumerate((40, 30, 25)))
OUT = {"shifted": NEAR + 1, "wide": 3 * FAR}
METHODS = {"sum": ood.Detector(lambda x: x.sum(-1)), "norm": lambda x: (x**2).sum(-1)}


@pytest.fixture(scope="module")
def found():
    return ood.compare(METHODS, IN, OUT)


def test_the_numbers_are_those_of_the_metrics(found):
    for method, score in METHODS.items():
        for kind, far in OUT.items():
            both = np.concatenate([score(IN), score(far)])
            expected = roc_auc_score(np.repeat([0, 1], [len(IN), len(far)]), both)
            assert found.metrics[method][kind]["auroc"] == pytest.approx([expected], abs=1e-6)
    np.testing.assert_array_equal(found.scores["sum"]["wide"], np.float32(OUT["wide"]).sum(-1))
    assert set(found.scores["norm"]) == {"in", "shifted", "wide"}


def test_the_positive_class_is_said(found):
    other = ood.compare(METHODS, IN, OUT, positive="out")
    assert other.metrics["norm"]["shifted"]["auroc"] == found.metrics["norm"]["shifted"]["auroc"]
    # By hand: where at least 38 of 40 inliers are kept, and where at least 29 of 30 outliers are found.
    inside, outside = np.sort(METHODS["norm"](IN)), np.sort(METHODS["norm"](OUT["shifted"]))
    kept, caught = np.mean(outside <= inside[37]), np.mean(inside >= outside[1])
    assert found.metrics["norm"]["shifted"]["fpr95"] == pytest.approx([kept], abs=1e-6)
    assert other.metrics["norm"]["shifted"]["fpr95"] == pytest.approx([caught], abs=1e-6)
    assert "inliers are kept" in str(found)
    assert "outliers are found" in str(other)


def test_runs_merge_into_a_mean_and_its_error(found):
    runs = [found, ood.compare(METHODS, IN + 0.3, OUT), ood.compare(METHODS, IN - 0.2, OUT)]
    merged = runs[0].merge(runs[1]).merge(runs[2])
    values = np.array([run.metrics["sum"]["wide"]["aupr_in"][0] for run in runs])
    np.testing.assert_array_equal(merged.metrics["sum"]["wide"]["aupr_in"], values)
    assert list(merged.metrics) == ["sum", "norm"]  # as they were given
    cell = f"{values.mean():.4f} ± {values.std(ddof=1) / 3**0.5:.4f}"
    assert cell in merged.table("aupr_in")
    assert cell in str(merged)
    np.testing.assert_array_equal(merged.scores["norm"]["in"], runs[2].scores["norm"]["in"])


def test_a_group_is_the_mean_of_its_kinds(found):
    table = found.table("auroc", groups={"far": ["shifted", "wide"]})
    mean = np.mean([found.metrics["sum"][kind]["auroc"][0] for kind in OUT])
    assert table.splitlines()[0] == "| auroc | shifted | wide | far |"
    assert table.splitlines()[2].endswith(f"| {mean:.4f} |")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: ood.compare({}, IN, OUT), "at least one of either"),
        (lambda c: ood.compare(METHODS, IN, {}), "at least one of either"),
        (lambda c: ood.compare(METHODS, IN, {"in": IN}), "the name of the inliers"),
        (lambda c: ood.compare({"logits": lambda x: x}, IN, OUT), r"40 inputs from 'logits', got the shape \(40, 3\)"),
        (lambda c: ood.compare(METHODS, IN, OUT, positive="both"), "positive"),
        (lambda c: c.table("auc"), "no metric 'auc'; there are auroc"),
        (lambda c: c.table("auroc", groups={"far": ["noise"]}), "no outliers named 'noise'; there are shifted, wide"),
        (lambda c: c.merge(ood.compare(METHODS, IN, {"wide": IN})), "Compare the same in each run"),
    ],
)
def test_bad_input(found, call, message):
    with pytest.raises(ValueError, match=message):
        call(found)


@pytest.mark.parametrize(("methods", "outside"), [(list(METHODS.values()), OUT), (METHODS, FAR)])
def test_methods_and_outliers_have_names(methods, outside):
    with pytest.raises(TypeError, match=r"by name, a dict, got (list|ndarray)"):
        ood.compare(methods, IN, outside)


@pytest.mark.slow
def test_the_study_runs_and_is_not_run_again(load_benchmark, tmp_path):
    rng = np.random.default_rng(0)
    pixels = lambda count, *shape: rng.integers(0, 256, (count, *shape)).astype(np.uint8)
    digits = {"x_train": pixels(1_500, 28, 28), "y_train": np.arange(1_500) % 10}
    digits |= {"x_test": pixels(300, 28, 28), "y_test": np.arange(300) % 10}
    files = {
        "mnist/mnist": digits,
        "notmnist/notmnist_t10k": {"x_test": pixels(50, 28, 28)},
        "omniglot/images_background_small1_28x28": {"x": pixels(50, 28, 28)},
        "cifar10/cifar10_test": {"x_test": pixels(50, 32, 32, 3)},
    }
    for name, arrays in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        np.savez(tmp_path / name, **arrays)
    study = load_benchmark("ood")
    command = ["unseen", "baseline", "--fast", "--seeds", "1", "--data", str(tmp_path), "--output", str(tmp_path)]
    results = study.main([*command, "--pictures", str(tmp_path)])
    assert len(results["unseen"]["metrics"]) == 18
    assert set(results["baseline"]["metrics"]["maximum softmax"]) == {
        "letters", "characters", "photographs", "uniform", "normal",
    }  # fmt: skip
    numbers = [v for found in results["unseen"]["metrics"].values() for v in found["other digits"].values()]
    assert np.isfinite(numbers).all()
    assert (tmp_path / "ood-unseen.png").is_file()
    kept = (tmp_path / "ood.json").read_text()
    study.main(command)
    assert (tmp_path / "ood.json").read_text() == kept
