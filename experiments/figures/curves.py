"""Draws how trainings went: python -m experiments.curves FOLDER [options].

FOLDER holds the result files METHOD.json of one experiment, such as runs/CONFIG or
experiments/results/CONFIG. Each method has a colour and a kind of line. Thin lines are single
keys, thick ones their mean; thick lines of losses, which are taken from small batches, are
running means over a fiftieth of the training.
"""

import dataclasses
import math
import pathlib
import sys
from typing import Any, Literal

import numpy as np
import tyro

from dann_jax.objective import chance_domain_loss
from experiments import results, style

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
NEEDED = ("config", "steps", "resolved_config", "curves")  # of a result


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
    """Runs the program.

    Args:
      arguments: Of the command line; None for those of the process.

    Returns:
      The exit status: 0, or 2 where there is nothing to draw.
    """
    try:
        options = tyro.cli(Options, args=arguments, prog=PROGRAM, description=__doc__)
        path = options.output or options.folder / "curves.png"
        draw(read(options.folder), path, panels=options.panels)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"written: {path}")
    return 0


def read(folder: pathlib.Path) -> dict[str, dict[str, Any]]:
    """Returns the results of the methods that have curves, in the order of a legend.

    Raises:
      ValueError: There are none, or one is not of trainings.
    """
    every = {method: results.read(folder / f"{method}.json") for method in style.LINES}
    found = {method: result for method, result in every.items() if result}
    if not found:
        raise ValueError(
            f"no results in {folder}: expected one of {', '.join(f'{m}.json' for m in every)}"
        )
    parts = {part for part, *_ in _CURVES.values()}
    for method, result in found.items():
        missing = [name for name in NEEDED if not result.get(name)]
        if missing:
            raise ValueError(f"{folder / method}.json is no result: it has no {', '.join(missing)}")
        if not all(isinstance(curve, dict) and parts <= curve.keys() for curve in result["curves"]):
            raise ValueError(
                f"{folder / method}.json is no result: its curves lack {' or '.join(sorted(parts))}"
            )
    return found


def draw(
    found: dict[str, dict[str, Any]],
    path: pathlib.Path,
    *,
    panels: tuple[str, ...] = PANELS,
) -> None:
    """Draws the curves of the methods of one experiment.

    Args:
      found: Result of each method, see ``experiments.run``; those of other methods are left out.
      path: Where to, PNG or SVG.
      panels: Which of ``PANELS``.

    Raises:
      ValueError: There is nothing to draw, or ``path`` is neither.
    """
    found = {method: found[method] for method in style.LINES if method in found}
    if not found or not panels:
        raise ValueError(f"expected methods and panels to draw, got {list(found)}, {list(panels)}")
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    width = style.COLUMN if columns == 1 else style.PAGE
    names = style.method_names(list(found))
    names_a_row = min(2 * columns, 4)
    height = rows * HEIGHT + math.ceil(len(names) / names_a_row) * style.LINE_HEIGHT
    config = next(iter(found.values()))["config"]
    command = " ".join(
        [PROGRAM, f"RUNS/{config}", *(("--panels", *panels) if panels != PANELS else ())]
    )
    with style.figure(path, command, rows, columns, width=width, height=height) as (drawn, axes):
        for axis, panel in zip(axes.flat, panels, strict=False):
            _draw_panel(axis, panel, found)
        for axis in axes.flat[len(panels) :]:
            axis.set_visible(False)
        drawn.legend(
            handles=[_line([], [], method, name) for method, name in names.items()],
            loc="outside upper center",
            ncols=names_a_row,
        )


def _draw_panel(axis, panel, found):
    if panel == "schedules":
        _draw_schedules(axis, found)
    else:
        part, name, label = _CURVES[panel]
        axis.set_ylabel(label)
        for method, result in found.items():
            entries = [curve[part] for curve in result["curves"]]
            values = np.array([entry[name] for entry in entries], float)  # null is NaN
            if "accuracy" in name:
                values = 1 - values
            if not np.isnan(values).all():  # a target without labels, or no domain classifier
                _draw_curves(axis, method, entries[0]["step"], values, part == "training")
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


def _draw_curves(axis, method, steps, values, smooth):
    """Draws ``values [key, step]``, as far as they are known."""
    known = ~np.isnan(values).all(0)  # unknown at all keys: a loss that was not finite
    steps, values = np.array(steps)[known], values[:, known]
    thick = np.nanmean(values, 0)
    if smooth:
        thick = running_mean(thick, len(steps) // WINDOWS)
    if smooth or len(values) > 1:
        for line in values:
            axis.plot(steps, line, color=style.LINES[method].colour, lw=0.5, alpha=0.35)
    line = _line(steps, thick, method)
    line.set_markevery(max(1, len(steps) // MARKS))
    axis.add_line(line)
    axis.autoscale_view()


def _draw_schedules(axis, found):
    """Draws lambda and mu of the first method with a domain classifier, or else mu."""
    result = next(filter(_adapted, found.values()), next(iter(found.values())))
    training = result["curves"][0]["training"]
    mu0 = result["resolved_config"]["mu0"]
    axis.plot(training["step"], np.divide(training["mu"], mu0), "0.45", label=r"$\mu_p / \mu_0$")
    if _adapted(result):
        axis.plot(training["step"], training["lam"], "k", dashes=(5, 1.5), label=r"$\lambda_p$")
    axis.set_ylabel(rf"schedules ($\mu_0$ = {mu0:g})")
    axis.legend(loc="best")


def _adapted(result):
    """Whether a method has a domain classifier."""
    return result.get("domain_loss") is not None


def _chance(found):
    """Returns L_d, nats, where the domains cannot be told apart; None where that is not one value.

    So it is without a domain classifier, and with several that normalise L_d in several ways.
    """
    conventions = {r["domain_loss"]["normalisation"] for r in found.values() if _adapted(r)}
    return chance_domain_loss(conventions.pop()) if len(conventions) == 1 else None


def _line(x, y, method, label=None):
    from matplotlib.lines import Line2D

    look = style.LINES[method]
    shape = {"ls": look.dashes, "marker": look.marker, "ms": 3.2}
    return Line2D(x, y, color=look.colour, label=label, **shape)


def running_mean(values, window):
    """Returns the mean of the ``window`` values around each, of fewer at the ends.

    Args:
      values: ``[n]``.
      window: Odd, or one more is taken before than after; less than 1 is 1.
    """
    weights = np.ones(max(1, window))
    return np.convolve(values, weights, "same") / np.convolve(np.ones(len(values)), weights, "same")


if __name__ == "__main__":
    sys.exit(main())
