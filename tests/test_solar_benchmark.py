"""The study of solar flares, on made-up data in the layout of the published sets."""

import json

import numpy as np
import pytest

REGIONS, DAYS = 300, 3


@pytest.fixture(scope="module")
def study(load_benchmark):
    return load_benchmark("solar_flares")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Regions of three days, 2010 to 2019, events by one feature and none after 2018; ordered classes by another."""
    path, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    start = np.sort(rng.integers(0, 3_500, REGIONS))
    region = np.repeat(np.arange(REGIONS), DAYS)
    day = np.datetime64("2010-05-01T23:48:00") + (start[region] + np.tile(np.arange(DAYS), REGIONS)) * np.timedelta64(
        1, "D"
    )
    x = np.exp(rng.normal(size=(len(region), 3)))
    event = (np.log(x[:, 0]) + 0.5 * rng.normal(size=len(region)) > 1.2) & (day < np.datetime64("2018-01-01"))
    lines = ["FlareNumber;T_REC;NOAA_AR;QUALITY;Longitude;Latitude;TOTUSJH;MEANSHR;R_VALUE"]
    for i, when in enumerate(day):
        numbers = [f"{x[i, 0]:.6g}", "" if i == 7 else f"{x[i, 1]:.6g}", f"{x[i, 2]:.6g}"]
        cells = [int(event[i]), str(when).replace("T", " "), 11_000 + region[i], 0, 10, -5, *numbers]
        lines.append(";".join(map(str, cells)))
    (path / "solar_flare_sharp").mkdir()
    (path / "solar_flare_sharp" / "solar_flare_sharp.csv").write_text("\n".join(lines) + "\n")

    lines = ["class largest_spot_size C M X"]
    for _ in range(150):
        size = rng.integers(0, 4)
        flare = max(0, min(3, size + rng.integers(-1, 2)))
        lines.append(f"{'BCDE'[size]} {'AX'[rng.integers(2)]} {int(flare >= 1)} {int(flare >= 2)} {int(flare == 3)}")
    (path / "solar_flare_uci").mkdir()
    (path / "solar_flare_uci" / "flare.data2").write_text("\n".join(lines) + "\n")
    return path, x, event


def test_records_are_read_as_they_are_written(study, folder):
    path, x, event = folder
    records = study.read_sharp(path / "solar_flare_sharp")
    np.testing.assert_array_equal(records.y, event)
    expected = x.copy()
    expected[7, 1] = np.nan
    np.testing.assert_allclose(records.x, expected, rtol=1e-5)
    assert records.times.dtype == "datetime64[s]"
    np.testing.assert_array_equal(records.regions[:4], [11_000, 11_000, 11_000, 11_001])
    one_hot, labels = study.read_uci(path / "solar_flare_uci")
    assert one_hot.shape == (150, 6)
    np.testing.assert_array_equal(one_hot.sum(1), 2)
    assert set(labels) == {0, 1, 2, 3}


def test_inputs_are_standardised_by_training_rows_alone(study, folder):
    records = study.read_sharp(folder[0] / "solar_flare_sharp")
    train = np.arange(0, len(records.y), 2)
    z = study.standardise(records.x, train)
    np.testing.assert_allclose(z[train].mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(z[train].std(0), 1, atol=1e-5)
    assert np.abs(z[1::2].mean(0)).min() > 1e-4
    assert z[7, 1] == 0  # missing, and not a training row
    other = records.x.copy()
    other[1::2] *= 100
    np.testing.assert_array_equal(study.standardise(other, train)[train], z[train])


def test_folds_respect_time_and_regions(study, folder):
    records = study.read_sharp(folder[0] / "solar_flare_sharp")
    made = study.Study(records, study.argparse.Namespace(seed=0))
    rows = np.arange(len(records.y))
    temporal, grouped = made.splits("temporal", rows), made.splits("grouped", rows)
    assert [set(records.times[test].astype("datetime64[Y]").astype(int) + 1970) for _, test in temporal] == [
        {2010, 2011}, {2012, 2013}, {2014, 2015}, {2016, 2017}, {2018, 2019}
    ]  # fmt: skip
    for train, test in temporal + grouped:
        assert not np.intersect1d(records.regions[train], records.regions[test]).size
    for train, test in temporal:
        assert np.abs(records.times[train][:, None] - records.times[test]).min() > study.GAP
    assert records.y[temporal[-1][1]].sum() == 0


def test_thresholds_and_scores_by_hand(study):
    probs = np.arange(100) / 100
    labels = (probs > 0.695).astype(int)
    found = study.best_thresholds(probs, labels)
    assert 0.69 < found["tss"] <= 0.7
    assert 0.69 < found["hss"] <= 0.7
    np.testing.assert_array_equal(study.confusion_of(np.array([0, 1, 1, 1]), np.array([0, 0, 1, 1])), [[1, 1], [0, 2]])
    assert study.skill("tss", np.array([0, 1, 1, 1]), np.array([0, 0, 1, 1])) == pytest.approx(0.5)
    assert np.isnan(study.skill("tss", np.zeros(3, int), np.zeros(3, int)))
    likelihood, ranked = study.class_scores(np.array([[0.2, 0.5, 0.3]]), np.array([1]))
    np.testing.assert_allclose([likelihood[0], ranked[0]], [np.log(0.5), 0.2**2 + 0.3**2])


def test_matrices_of_regions_add_up_to_that_of_all(study, folder):
    records = study.read_sharp(folder[0] / "solar_flare_sharp")
    decisions = np.random.default_rng(0).integers(0, 2, len(records.y))
    matrices = study.of_regions(decisions, records)
    assert matrices.shape == (REGIONS, 2, 2)
    np.testing.assert_array_equal(matrices.sum(0), study.confusion_of(decisions, records.y))
    np.testing.assert_array_equal(matrices.sum((1, 2)), DAYS)


def test_a_missing_file_is_named(study, tmp_path):
    with pytest.raises(SystemExit, match="solar_flare_sharp.csv: pass --data DIR or set BDL_DATA to the folder above"):
        study.main(["sharp", "--fast", "--data", str(tmp_path)])


@pytest.mark.slow
def test_studies_run_and_are_kept(study, folder, tmp_path, capsys):
    command = ["--fast", "--data", str(folder[0]), "--output", str(tmp_path)]
    results = study.main(command)
    rows = results["sharp"]["rows"]
    assert len(rows) == 15
    for row in rows.values():
        assert np.isfinite([row["tss"], row["hss"], row["brier_skill"], row["log_likelihood"]]).all()
        low, high = row["tss_interval"]
        assert low <= row["tss"] <= high
    assert np.isnan(rows["logistic regression, temporal"]["tss_folds"][-1])
    assert rows["logistic regression, temporal"]["tss"] > 0.6  # the feature tells
    assert rows["climatology, random"]["brier_skill"] == pytest.approx(0, abs=1e-12)
    assert set(results["ordinal"]["rows"]) >= {"climatology", "softmax, linear", "ordinal, linear"}
    printed = capsys.readouterr().out
    assert "| logistic regression, temporal |" in printed
    assert json.dumps(json.loads((tmp_path / "solar_flares.json").read_text())) == json.dumps(results)
    study.main(command)
    assert "temporal: " not in capsys.readouterr().out
