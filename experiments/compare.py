"""Compares results: python -m experiments.compare A.json B.json [MORE.json ...] [--output PNG].

Each is compared with the first: settings, versions, devices and data that differ, and accuracies on
the target's test images, with a paired t-test over the keys that both have, where the data are the
same. --output draws the accuracies along the trainings over each other.
"""

import dataclasses
import math
import pathlib
from typing import Annotated, Any

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from experiments import arguments as command_line
from experiments import domains, record, unlabelled
from experiments.display import accuracy, show
from experiments.figures import style
from experiments.settings import completed, differences
from experiments.unlabelled import DASH

__all__ = ["Options", "changed", "main", "paired"]

PROGRAM = "python -m experiments.compare"
FIRST = "A"
PLACE = ("device", "processor", "device_count", "process_count", "plain_xla", "threads")
MOST = 26  # results, for which there are letters
HEIGHT = 1.9  # of a row of panels, inches
PANELS = (  # part of the curves, entry there, label
    ("evaluations", "target_accuracy", "target test accuracy"),
    ("evaluations", "source_accuracy", "source test accuracy"),
    ("evaluations", "target_confidence", "confidence on the target"),
    ("evaluations", "target_entropy", "entropy on the target (nats)"),
    ("training", "label_loss", "$L_y$ (nats)"),
    ("training", "domain_loss", "$L_d$ (nats)"),
)
DASHES = ("-", "--", ":")  # of each ten


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What to compare."""

    results: Annotated[
        tuple[pathlib.Path, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="A.json B.json [MORE.json ...]"),
    ]
    """Result files of experiments.run, CONFIG/METHOD.json."""

    output: pathlib.Path | None = None
    """Picture of accuracies and losses along the trainings, PNG or SVG; by default none."""


def changed(first: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Returns in words in what two results differ, apart from their numbers."""
    settings = [
        completed(each["resolved_config"]) | {"steps": each["steps"]} for each in (first, other)
    ]
    lines = differences(*settings, whose="here")
    lines += differences(first["versions"], other["versions"], whose="here")
    places = [{name: each.get(name) for name in PLACE} for each in (first, other)]
    lines += differences(*places, whose="here")
    data = domains.differences(first["data"], other["data"])
    return lines + [f"data: {line}" for line in data.split("; ") if line]


def paired(first: dict[str, Any], other: dict[str, Any]) -> tuple[np.ndarray, float]:
    """Returns the differences of accuracies, other minus first, and p of a paired t-test.

    They are those of the keys that both have, and that diverged in neither. p is NaN for fewer
    than two of them, or where all differences are equal.
    """
    from scipy import stats

    known = [
        {k: a for k, a in zip(each["keys"], each["target_accuracy"], strict=True) if a is not None}
        for each in (first, other)
    ]
    common = sorted(known[0].keys() & known[1].keys())
    gains = np.array([known[1][key] - known[0][key] for key in common])
    if len(gains) < 2 or np.ptp(gains) < 1e-9:
        return gains, float("nan")
    return gains, float(stats.ttest_1samp(gains, 0).pvalue)


def _table(results):
    """Returns a table with a row for each result."""
    table = Table(title=f"accuracy on the target's test images, and the gain over {FIRST}")
    for name in ("", "method", "mean", "sd", "keys", "gain", "sd", "keys", "p"):
        table.add_column(name, justify="left" if name in ("", "method") else "right")
    for letter, each in results.items():
        gains, p = paired(results[FIRST], each)
        row = [accuracy(each["mean"]), accuracy(each["std"]), str(len(each["keys"]))]
        other_data = domains.differences(results[FIRST]["data"], each["data"])
        if letter == FIRST or not len(gains) or other_data:
            row += [DASH] * 4
        else:
            spread = accuracy(gains.std(ddof=1) if len(gains) > 1 else None)
            row += [f"{gains.mean():+.4f}", spread, str(len(gains)), f"{p:.2g}" if p == p else DASH]
        table.add_row(letter, each["method"], *row)
    return table


def _panels(results):
    """Returns what any of the results has curves of: part, entry and label."""
    every = [curve for each in results.values() for curve in each.get("curves") or ()]
    return [
        panel
        for panel in PANELS
        if any(v is not None for curve in every for v in curve[panel[0]].get(panel[1]) or ())
    ]


def _draw(results, path):
    """Draws the curves of all results over each other: thin lines are keys, thick ones means."""
    panels = _panels(results)
    if not panels:
        raise ValueError("--output: none of the results has curves, as closed forms: leave it out")
    from matplotlib.lines import Line2D

    columns = min(2, len(panels))
    shape = math.ceil(len(panels) / columns), columns
    looks = {
        letter: {"color": f"C{number % 10}", "ls": DASHES[number // 10]}
        for number, (letter, each) in enumerate(results.items())
        if each.get("curves")
    }
    legend = math.ceil(len(looks) / (2 * columns)) * style.LINE_HEIGHT
    width = style.COLUMN if columns == 1 else style.PAGE
    size = {"shape": shape, "width": width, "height": shape[0] * HEIGHT + legend}
    with style.figure(path, PROGRAM, **size) as (figure, axes):
        for axis, (part, name, label) in zip(axes.flat, panels, strict=False):
            for letter, look in looks.items():
                _lines(axis, [curve[part] for curve in results[letter]["curves"]], name, look)
            axis.set_xlabel("updates")
            axis.set_ylabel(label)
            axis.xaxis.set_major_formatter("{x:,.0f}")
            axis.locator_params("x", nbins=4)
            axis.set_yscale("log" if name == "label_loss" else "linear")
        for axis in axes.flat[len(panels) :]:
            axis.set_visible(False)
        handles = [
            Line2D([], [], label=f"{letter}: {results[letter]['method']}", **look)
            for letter, look in looks.items()
        ]
        figure.legend(handles=handles, loc="outside upper center", ncols=2 * columns)


def _lines(axis, curves, name, look):
    """Draws a curve of each key, and their mean where all of them are known."""
    known = [(c["step"], c[name]) for c in curves if any(v is not None for v in c.get(name) or ())]
    values = [[np.nan if v is None else v for v in column] for _, column in known]
    thin = {"lw": 0.5, "alpha": 0.5, "color": look["color"]} if len(known) > 1 else look
    for (steps, _), column in zip(known, values, strict=True):
        axis.plot(steps, column, **thin)
    if len(known) > 1:
        shortest = min(map(len, values))  # a key that diverged ends early
        axis.plot(known[0][0][:shortest], np.mean([v[:shortest] for v in values], 0), **look)


def _compare(options, console):
    """Prints the comparison of all results with the first, and draws it if asked for."""
    if not 2 <= len(options.results) <= MOST:
        raise ValueError(
            f"expected 2 to {MOST} result files to compare, got {len(options.results)}"
        )
    if options.output is not None:
        style.check_format(options.output)
    results = {}
    for number, path in enumerate(options.results):
        result = record.read_result(path)
        if result is None:
            raise ValueError(f"{path}: expected a result file, CONFIG/METHOD.json, got none")
        letter = chr(ord(FIRST) + number)
        results[letter] = result
        console.print(f"{letter}: {path}", soft_wrap=True, markup=False)
    for letter, each in results.items():
        if letter != FIRST:
            lines = changed(results[FIRST], each) or ["the same settings, versions and data"]
            console.print(f"\n{letter} beside {FIRST} (there {FIRST}, here {letter}):")
            for line in lines:
                console.print(f"  {line}", soft_wrap=True, markup=False)
    console.print()
    # Without labels in any target there is no accuracy to compare.
    show(unlabelled.table("results", results) or _table(results), console)
    if options.output is not None:
        _draw(results, options.output)
        console.print(f"written: {options.output}", soft_wrap=True, markup=False)


def main(arguments: list[str] | None = None) -> int:
    """Runs the program and returns its exit status: 0, or 2 where nothing was compared."""
    options = command_line.parse(Options, arguments, program=PROGRAM, description=__doc__)
    return command_line.ended(lambda: _compare(options, Console()))


if __name__ == "__main__":
    command_line.end(main())
