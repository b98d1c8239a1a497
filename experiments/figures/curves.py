"""Draws how trainings went: python -m experiments.curves FOLDER [options].

FOLDER holds the result files METHOD.json of one experiment, such as runs/CONFIG or
experiments/results/CONFIG. Each method has a colour and a kind of line. Thin lines are single
keys, thick ones their mean. Losses come from small batches, so their thick lines are running means
over a fiftieth of the training.
"""

import dataclasses
import math
import pathlib
import sys
from typing import Any, Literal

import numpy as np
import tyro

from dann_jax.objective import chance_domain_loss
from experiments import record
from experiments.figures import program, style
from experiments.methods import METHODS

__all__ = ["PANELS", "Options", "draw", "main", "read", "running_mean"]

PROGRAM = "python -m experiments.curves"
COLUMNS = 3  # of panels
HEIGHT = 1.9  # of a row of panels, inches
WINDOWS = 50  # of a running mean, in a training
MARKS = 8  # on a curve, about

# What each panel shows: the part of the curves, the entry there, and the name of the axis.
_CURVES = {
    "target-error": ("evaluations", "target_accuracy", "target test error"),
    "source-error": ("evaluations", "source_accuracy", "source test error"),
    "label-loss": ("training", "label_loss", "$L_y$ (nats)"),
    "domain-loss": ("training", "domain_loss", "$L_d$ (nats)"),
    "domain-error": ("training", "domain_accuracy", "error of $G_d$"),
}

PANELS = (*_CURVES, "schedules")
NEEDED = ("config", "steps", "resolved_config", "curves")  # entries of a result
PARTS = ("evaluations", "training")  # of its curves


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What to draw."""

    folder: tyro.conf.Positional[pathlib.Path]
    """Where the result files are."""

    panels: tuple[Literal[PANELS], ...] = PANELS
    """Which, in this order."""

    output: pathlib.Path | None = None
    """Where to, PNG or SVG; by default FOLDER/curves.png."""


def main(arguments: list[str] | None = None) -> int:
    """Runs the program with these arguments, or those of the process; returns its exit status."""
    return program.run(_draw, Options, arguments, program=PROGRAM, description=__doc__)


def _draw(options):
    path = options.output or options.folder / "curves.png"
    draw(read(options.folder), path, panels=options.panels)
    return path


def _drawable():
    """Returns the names of the methods that have curves, in the order of a legend."""
    return [name for name, method in METHODS.items() if method.line]


def read(folder: pathlib.Path) -> dict[str, dict[str, Any]]:
    """Returns the results of the methods that have curves, in the order of a legend.

    Raises:
      ValueError: There are none, or one is not of trainings.
    """
    paths = {method: folder / f"{method}.json" for method in _drawable()}
    found = {method: record.read(path) for method, path in paths.items()}
    found = {method: result for method, result in found.items() if result}
    if not found:
        names = ", ".join(path.name for path in paths.values())
        raise ValueError(f"no results in {folder}: expected one of {names}")
    for method, result in found.items():
        if problem := _problem(result):
            raise ValueError(f"{paths[method]} is no result: {problem}")
    return found


def _problem(result):
    """Returns why curves cannot be drawn from a file; an empty string if they can."""
    missing = [name for name in NEEDED if not result.get(name)]
    if missing:
        return f"it has no {', '.join(missing)}"
    if all(isinstance(curve, dict) and curve.keys() >= set(PARTS) for curve in result["curves"]):
        return ""
    return f"its curves lack {' or '.join(PARTS)}"


def draw(
    found: dict[str, dict[str, Any]],
    path: pathlib.Path,
    *,
    panels: tuple[str, ...] = PANELS,
) -> None:
    """Draws the curves of the methods of one experiment.

    Args:
      found: Result of each method, see ``experiments.run``; methods without curves are left out.
      path: Where to, PNG or SVG.
      panels: Which of ``PANELS``.

    Raises:
      ValueError: There is nothing to draw, or ``path`` is neither.
    """
    found = {method: found[method] for method in _drawable() if method in found}
    if not found or not panels:
        raise ValueError(f"expected methods and panels to draw, got {list(found)}, {list(panels)}")
    columns = min(COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    names = style.legend_names(found)
    names_a_row = min(2 * columns, 4)
    size = {
        "shape": (rows, columns),
        "width": style.COLUMN if columns == 1 else style.PAGE,
        "height": rows * HEIGHT + math.ceil(len(names) / names_a_row) * style.LINE_HEIGHT,
    }
    config = next(iter(found.values()))["config"]
    chosen = ("--panels", *panels) if panels != PANELS else ()
    command = " ".join([PROGRAM, f"RUNS/{config}", *chosen])
    with style.figure(path, command, **size) as (figure, axes):
        for axis, panel in zip(axes.flat, panels, strict=False):
            _draw_panel(axis, panel, found)
        for axis in axes.flat[len(panels) :]:
            axis.set_visible(False)
        figure.legend(
            handles=[_line([], [], method, name) for method, name in names.items()],
            loc="outside upper center",
            ncols=names_a_row,
        )


def _draw_panel(axis, panel, found):
    if panel == "schedules":
        _draw_schedules(axis, found)
    else:
        _draw_methods(axis, panel, found)
    if panel == "label-loss" and axis.lines:
        axis.set_yscale("log")
    else:
        axis.set_ylim(0, 1.04 * axis.get_ylim()[1])  # marks are whole
    level = {"domain-loss": _chance(found), "domain-error": 0.5}.get(panel)
    if level is not None:
        axis.axhline(level, color="0.4", ls=(0, (1, 2)), lw=0.8)
        beside = axis.get_yaxis_transform()  # x as a share of the width
        axis.text(1, level, "chance", ha="right", va="bottom", color="0.3", transform=beside)
        axis.set_ylim(0, max(axis.get_ylim()[1], 1.15 * level))
    axis.set_xlim(0, 1.03 * max(result["steps"] for result in found.values()))
    axis.locator_params("x", nbins=4)
    axis.xaxis.set_major_formatter("{x:,.0f}")
    axis.set_xlabel("updates")


def _draw_methods(axis, panel, found):
    """Draws the curves of all methods that have those of a panel."""
    part, name, label = _CURVES[panel]
    axis.set_ylabel(label)
    for method, result in found.items():
        entries = [curve[part] for curve in result["curves"]]
        values = np.array([entry[name] for entry in entries], float)  # null is NaN
        if name.endswith("accuracy"):
            values = 1 - values
        if not np.isnan(values).all():  # a target without labels, or no domain classifier
            smooth = part == "training"
            _draw_curves(axis, method, np.array(entries[0]["step"]), values, smooth=smooth)


def _draw_curves(axis, method, steps, values, *, smooth):
    """Draws ``values [key, step]``, as far as they are known."""
    known = ~np.isnan(values).all(0)  # unknown at all keys: a loss that was not finite
    steps, values = steps[known], values[:, known]
    mean = np.nanmean(values, 0)
    if smooth:
        mean = running_mean(mean, len(steps) // WINDOWS)
    if smooth or len(values) > 1:
        axis.plot(steps, values.T, color=METHODS[method].line.colour, lw=0.5, alpha=0.35)
    line = _line(steps, mean, method)
    line.set_markevery(max(1, len(steps) // MARKS))
    axis.add_line(line)
    axis.autoscale_view()


def _draw_schedules(axis, found):
    """Draws mu, and lambda of the first method with a domain classifier if there is one."""
    result = next(filter(_has_domain_loss, found.values()), next(iter(found.values())))
    training = result["curves"][0]["training"]
    mu0 = result["resolved_config"]["mu0"]
    axis.plot(training["step"], np.divide(training["mu"], mu0), "0.45", label=r"$\mu_p / \mu_0$")
    if _has_domain_loss(result):
        axis.plot(training["step"], training["lam"], "k", dashes=(5, 1.5), label=r"$\lambda_p$")
    axis.set_ylabel(rf"schedules ($\mu_0$ = {mu0:g})")
    axis.legend(loc="best")


def _has_domain_loss(result):
    return result.get("domain_loss") is not None


def _chance(found):
    """Returns L_d, nats, of indistinguishable domains; None if that is not one value.

    It is not without a domain classifier, and with several that normalize L_d differently.
    """
    with_domains = filter(_has_domain_loss, found.values())
    conventions = {result["domain_loss"]["normalization"] for result in with_domains}
    return chance_domain_loss(conventions.pop()) if len(conventions) == 1 else None


def _line(x, y, method, label=None):
    from matplotlib.lines import Line2D

    look = METHODS[method].line
    shape = {"ls": look.dashes, "marker": look.marker, "ms": 3.2}
    return Line2D(x, y, color=look.colour, label=label, **shape)


def running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Returns the mean of the ``window`` values around each, of fewer at the ends.

    Args:
      values: ``[n]``.
      window: If even, one more is taken before than after; less than 1 is 1.
    """
    weights = np.ones(max(1, window))
    return np.convolve(values, weights, "same") / np.convolve(np.ones(len(values)), weights, "same")


if __name__ == "__main__":
    sys.exit(main())
