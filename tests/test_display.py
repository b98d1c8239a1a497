"""The bar of a training at the widths of terminals, and the lines where there is none."""

import io
import math

import pytest
from rich.console import Console

from dann_jax.programs import Group
from experiments import display, train

METRICS = {
    "label_loss": 1.2345, "label_accuracy": 0.91, "domain_loss": 0.69, "domain_accuracy": 0.71,
    "feature_norm": 12.3, "lam": 0.99,
}  # fmt: skip
WITHOUT = METRICS | {"domain_loss": math.nan, "domain_accuracy": math.nan}


@pytest.fixture
def clock(monkeypatch):
    """Sets the time, seconds."""
    now = [100.0]
    monkeypatch.setattr(display.time, "perf_counter", lambda: now[0])
    return now


def terminal(width, **options):
    return Console(file=io.StringIO(), width=width, force_terminal=True, highlight=False, **options)


def watched(console, clock, *, keys=(0,), method="dann", steps=1500, metrics=METRICS):
    """Returns a watch of a training that has made 101 steps, 50 a second."""
    watch, group = display.Watch(console, method, steps), Group(keys, 1)
    watch.advance(group, 0)
    watch.advance(group, 1)
    clock[0] += 2
    watch.advance(group, 101)
    watch(train.Report(group=group, key=keys[0], step=101, metrics=metrics, mu=0.01))
    return watch


def shown(watch):
    console = Console(file=io.StringIO(), width=watch.console.width, color_system=None)
    console.print(watch._bar())
    return console.file.getvalue()


LONG = {"keys": tuple(range(12)), "method": "source-and-few-labels", "steps": 200_000}


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("training", [{}, LONG, {"keys": (2**32 - 1,), "steps": 30_000}])
def test_the_bar_fits_with_count_time_and_two_numbers(width, training, clock):
    for metrics, second in ((METRICS, "domain acc 0.71"), (WITHOUT, "acc 0.91")):
        watch = watched(terminal(width), clock, **training, metrics=metrics)
        for numbers in (f"L_y 1.234  {second}", "L_y 1.234  target 0.712"):
            line = shown(watch)
            assert line.count("\n") == 1
            assert len(line) <= width
            count, left = watch._count(), watch._left()
            assert f" {count} {left} {numbers}" in line
            (bar,) = watch._bar().columns[1].cells
            assert bar.width >= display.SHORTEST
            watch.target = 0.7123


def test_wide_terminals_show_more(clock):
    lines = [shown(watched(terminal(width), clock)) for width in (60, 80, 120)]
    assert lines[0].startswith("key 0 ")  # the method gives way
    assert lines[1].startswith("dann key 0 ")
    assert "L_d" not in lines[1]
    assert "acc 0.91  50.0 step/s  L_d 0.690" in lines[2]
    assert "0:00:28" in lines[2]  # 1,399 steps


def test_it_compiles_until_the_first_call_has_ended(clock):
    watch, group = display.Watch(terminal(80), "dann", 3_000), Group((0,), 1)
    assert shown(watch) == "\n"  # nothing is under way
    watch.advance(group, 1_500)
    assert "1,500/3,000 -:--:-- compiling…" in shown(watch)
    watch.advance(group, 1_501)
    assert "compiling" not in shown(watch)
    clock[0] += 10
    watch.advance(group, 1_601)
    assert "1,601/3,000 0:02:20" in shown(watch)  # without the time of the compilation


def test_the_line_of_an_evaluation_fits_a_terminal(clock):
    for width, last in ((60, "L_y 1.234"), (80, "domain acc 0.71"), (None, "|f| 12.3")):
        console = terminal(width)
        if width is None:  # a file takes all of it
            console = Console(file=io.StringIO(), width=80, highlight=False)
        with display.Watch(console, "dann", 1500) as watch:
            group = Group((0,), 1)
            watch.advance(group, 0)
            watch(
                train.Report(
                    group=group, key=0, step=101, metrics=METRICS, mu=0.01,
                    target_accuracy=0.7123, source_accuracy=0.98,
                )
            )  # fmt: skip
        (line,) = [text for text in console.file.getvalue().splitlines() if "step 101:" in text]
        line = line[line.index("dann") :]
        assert line.startswith("dann key 0 step 101: target 0.7123  source 0.9800  L_y")
        assert line.endswith(last)
        assert len(line) <= (width or 200)


def test_without_a_terminal_there_is_a_line_each_half_minute(clock):
    console = Console(file=io.StringIO(), width=80, highlight=False)
    with display.Watch(console, "dann", 1_000) as watch:
        groups = Group((0,), 1), Group((1,), 1)
        watch.advance(groups[0], 0)
        for step in range(1, 100):  # 5 s each
            watch.advance(groups[0], step)
            clock[0] += 5
        watch.advance(groups[1], 0)
    lines = console.file.getvalue().split("\n")
    assert lines[0] == "dann key 0: compiling…"
    assert lines[1].startswith("dann key 0:     7/1,000")
    assert lines[1].endswith(" left")
    assert len(lines) == 1 + 16 + 1
    assert lines[-1] == ""
    assert all(lines[:-1])


def test_no_blank_line_is_left_in_a_terminal(clock):
    console = terminal(80)
    with display.Watch(console, "dann", 1500) as watch:
        watch.advance(Group((0,), 1), 0)
        console.print("one")
    console.print("two")
    assert "\n\n" not in console.file.getvalue().replace("\r", "")


def results_table():
    method = {"method": "source-and-few-labels", "std": 0.1234, "keys": [0], "steps": 200_000}
    result = method | {"mean": 0.9876, "wall_seconds": 60}
    return display.table("small", {"digits_digits_m": {"source-and-few-labels": result}})


@pytest.mark.parametrize(("width", "least"), [(60, 4), (80, 6), (120, 8)])
def test_a_table_shows_whole_columns_and_names_those_that_do_not_fit(width, least):
    console = terminal(width, color_system=None)
    display.show(results_table(), console)
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert not [line for line in lines if "…" in line]
    (row,) = [line for line in lines if "0.9876" in line]
    assert row.count("│") - 1 >= least
    left_out = lines[-1].removeprefix("no room for: ").split(", ") if "no room" in lines[-1] else []
    assert row.count("│") - 1 + len(left_out) == 8  # without a column for the only config


def test_a_table_in_a_file_is_whole():
    console = Console(file=io.StringIO(), width=40)
    display.show(results_table(), console)
    (row,) = [line for line in console.file.getvalue().splitlines() if "0.9876" in line]
    assert "…" not in row
    assert row.count("│") - 1 == 8
    assert console.width == 40
