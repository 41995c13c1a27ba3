"""Parameters of tests that `make test` leaves out: they compile much, or differ little from one that it runs."""

from functools import partial

import pytest

slow = partial(pytest.param, marks=pytest.mark.slow)
