"""All benchmarks but the UCI table's, as one table of ratios: candidate over reference."""

from collections.abc import Iterator

from benchmarks import dense_prediction, import_time, memory, predict, train_step
from benchmarks._timing import Row, Settings, run


def rows(settings: Settings) -> Iterator[Row]:
    for benchmark in (predict, train_step, dense_prediction, memory, import_time):
        yield from benchmark.rows(settings)


if __name__ == "__main__":
    run(__doc__, rows)
