"""Results of the long benchmarks: kept, not run again, and never those of other settings."""

import argparse

import pytest


def test_kept_and_not_run_again_with_the_same_settings(load_benchmark, tmp_path):
    command = load_benchmark("_command")
    arguments = argparse.Namespace(steps=5, widths=(4, 8), output=tmp_path)
    settings = command.settings(arguments, "steps", "widths")
    results = command.Results(tmp_path, "study.json")
    assert not results.has("plain", settings)
    results["plain"] = {"nll": 0.5}
    results.save()

    again = command.Results(tmp_path, "study.json")
    assert again.has("plain", settings)
    assert again["plain"] == {"nll": 0.5}
    assert not again.has("both", settings | {"steps": 6})  # another row may have settings of its own
    with pytest.raises(SystemExit, match=r"study.json has it with {'steps': 5}, and this run has {'steps': 6}"):
        again.has("plain", settings | {"steps": 6})
    assert command.Results(tmp_path, "study.json")["plain"] == {"nll": 0.5}


def test_nothing_is_kept_without_a_folder(load_benchmark):
    command = load_benchmark("_command")
    results = command.Results(None, "study.json")
    assert not results.has("plain", {"steps": 5})
    results["plain"] = {"nll": 0.5}
    results.save()
    assert not command.Results(None, "study.json").has("plain", {"steps": 6})
