"""Calls take a few seconds, whatever a step takes."""

import pytest

from experiments import pacing


@pytest.fixture
def clock(monkeypatch):
    """A clock that moves when it is told to."""
    now = [100.0]
    monkeypatch.setattr(pacing.time, "perf_counter", lambda: now[0])

    def move(seconds):
        now[0] += seconds

    return move


def test_the_first_call_compiles_and_the_second_is_timed(clock):
    pace = pacing.Pace(50, loops=True)
    assert pace.most == 1
    clock(60)
    pace.end(1)
    assert pace.seconds == 0
    clock(3)  # an evaluation, say
    pace.start()
    clock(2)
    pace.end(1)
    assert pace.seconds == 2


@pytest.mark.parametrize(
    ("seconds", "most"), [(0.01, 50), (0.1, 50), (0.2, 25), (0.3, 10), (2.0, 2), (10.0, 1)]
)
def test_calls_are_as_long_as_steps_allow(seconds, most):
    pace = pacing.Pace(50, loops=True)
    pace.adjust(seconds)
    assert pace.most == most
    pace.adjust(0)
    assert pace.most == most
    pace.adjust(0.01)
    assert pace.most == 50


def test_what_has_to_be_compiled_anew_is_only_made_shorter():
    pace = pacing.Pace(50, loops=False)
    assert pace.most == 50
    pace.adjust(0.5)
    assert pace.most == 10
    pace.adjust(0.01)
    assert pace.most == 10
