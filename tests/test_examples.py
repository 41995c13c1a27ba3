"""Every example runs, and says clearly what is wrong with a table that it is given."""

import re
import runpy
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("[0-9]*.py"))
EACH = pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.stem)
REGRESSION = EXAMPLES[0]


@pytest.fixture
def run(monkeypatch):
    """Runs an example as `python example arguments...` does."""

    def run(example, *arguments):
        monkeypatch.setattr(sys, "argv", [str(example), *map(str, arguments)])
        return runpy.run_path(str(example), run_name="__main__")

    return run


@EACH
def test_help(example, run, capsys):
    with pytest.raises(SystemExit) as end:
        run(example, "--help")
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert all(option in text for option in ("--fast", "--output", "--seed", "--num-samples"))


@pytest.mark.slow
@EACH
def test_runs(example, run, capsys, tmp_path):
    arguments = ["--splits", "2"] if example is REGRESSION else []
    with jax.debug_key_reuse("priors" not in example.stem):  # numpyro's NUTS uses one key twice
        names = run(example, "--fast", "--output", tmp_path / "new", *arguments)
    (figure,) = (tmp_path / "new").glob("*.png")
    assert str(figure) in capsys.readouterr().out
    finite = [np.asarray(value) for row in names.get("table", {}).values() for value in row.values()]
    assert np.isfinite(finite).all()


def table(columns: dict[str, object], num_rows: int = 30) -> list[str]:
    rows = zip(*(np.broadcast_to(values, num_rows) for values in columns.values()), strict=True)
    return [",".join(columns), *(",".join(map(str, row)) for row in rows)]


GOOD = table({"age": np.arange(30), "size": np.arange(30) % 7, "price": np.arange(30) ** 2})


def with_line(number: int, text: str) -> list[str]:
    return [*GOOD[: number - 1], text, *GOOD[number:]]


@pytest.mark.parametrize(
    ("lines", "arguments", "message"),
    [
        (with_line(5, "3,red,9"), [], "line 5, column 'size': expected a number, got 'red'. Encode text"),
        (with_line(9, "7,,49"), [], "line 9, column 'size': expected a number, got ''. Impute"),
        (with_line(9, "nan,0,49"), [], "line 9, column 'age': expected a number, got 'nan'"),
        (with_line(4, "1,2"), [], "line 4: 2 cells under a header of 3"),
        (GOOD, ["--target", "cost"], "no column 'cost'; the columns are age, size, price"),
        (GOOD[:12], [], "at least 20 rows, got 11"),
        (table({"a": np.arange(30), "b": 3.0}), [], "the target 'b' is 3.0 in every row"),
        (["a", *map(str, range(30))], [], "names two columns or more, each once; got 'a'"),
        (["a,b,a", *GOOD[1:]], [], "each once; got 'a,b,a'"),
        (GOOD[1:], [], "expected a first line that names"),
        ([], [], "each once; got ''"),
    ],
)
def test_what_is_wrong_with_a_table(run, capsys, tmp_path, lines, arguments, message):
    file = tmp_path / "table.csv"
    file.write_text("\n".join(lines))
    with pytest.raises(SystemExit) as end:
        run(REGRESSION, "--data", file, *arguments)
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_missing_file(run, capsys, tmp_path):
    with pytest.raises(SystemExit):
        run(REGRESSION, "--data", tmp_path / "none.csv")
    assert "none.csv" in capsys.readouterr().err


def test_a_table_as_spreadsheets_write_it(run, capsys, tmp_path):
    """Byte order mark, semicolons, an empty last line, a constant column, a target that is not the last one."""
    lines = table({"age": np.arange(30), "price": np.arange(30) ** 2, "year": 2020})
    file = tmp_path / "table.csv"
    file.write_text("\ufeff" + "\n".join(lines).replace(",", ";") + "\n\n", encoding="utf-8")
    with pytest.raises(ValueError, match="rate"):  # which ends the example before it trains
        run(REGRESSION, "--data", file, "--target", "price", "--rate", "1.5")
    out = capsys.readouterr().out
    assert re.search(r"same in every row: year\nprice: 30 rows, of which 6 are the test; 1 inputs", out)
