"""Draws how trainings went: python -m experiments.curves FOLDER [options].

FOLDER holds the result files METHOD.json of one experiment, such as runs/CONFIG or
experiments/results/CONFIG. Each method has a colour and a kind of line. Thin lines are single
keys, thick ones their mean. Losses come from small batches, so their thick lines are running means
over a fiftieth of the training.
"""

import dataclasses
import functools
import math
import pathlib
from typing import Any, Literal

import numpy as np
import tyro

from dann_jax.objective import chance_domain_loss
from dann_jax.selection import RULES
from experiments import record
from experiments.figures import style
from experiments.methods import METHODS

__all__ = ["PANELS", "Options", "draw", "main", "read", "running_mean"]

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
    "target-accuracy": ("evaluations", "target_accuracy", "target test accuracy"),
    "proxy-a-distance": ("evaluations", "proxy_a_distance", "proxy A-distance"),
    "discriminator-bound": ("evaluations", "discriminator_bound", r"$2\,|1 - \alpha|$ of $G_d$"),
    "target-confidence": ("evaluations", "target_confidence", "target confidence"),
    "target-entropy": ("evaluations", "target_entropy", "target entropy (nats)"),
    "predicted-classes": ("evaluations", "predicted", "images predicted to be"),
    **{rule: ("evaluations", rule, rule.replace("_", " ")) for rule in RULES},
}
_CLASSES = "predicted-classes"
_DISTANCES = ("proxy-a-distance", "discriminator-bound")
_NEEDS = {  # panels that not all results have -> where they come from
    **dict.fromkeys(_DISTANCES, "train with experiments.run --divergence"),
    **dict.fromkeys(RULES, "train with experiments.run --select"),
    **dict.fromkeys(
        ("target-confidence", "target-entropy", _CLASSES), "train on a target without labels"
    ),
}
_TRAINING = ("source-error", "label-loss", "domain-loss", "domain-error", "schedules")
PANELS = ("target-error", *_TRAINING)
UNLABELLED = ("target-confidence", "target-entropy", _CLASSES, *_TRAINING)
NAMED, LETTERS = 12, 14  # classes, at most, whose names fit beside their bars, and of a name
DRAWABLE = [name for name, method in METHODS.items() if method.line]  # in the order of a legend


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What to draw."""

    folder: tyro.conf.Positional[pathlib.Path]
    """Where the result files are."""

    panels: tuple[Literal[(*_CURVES, "schedules")], ...] = ()
    """Which, in this order; by default errors, losses and schedules or, of a target without labels,
    how sure the predictions are and of which classes. Distances need results of experiments.run
    --divergence, and rules those of --select."""

    variant: str | None = None
    """Draw METHOD-VARIANT.json in place of METHOD.json."""

    output: pathlib.Path | None = None
    """Where to, PNG or SVG; by default FOLDER/curves.png, or FOLDER/curves-VARIANT.png."""


def _draw(options):
    suffix = f"-{options.variant}" if options.variant else ""
    path = options.output or options.folder / f"curves{suffix}.png"
    results = read(options.folder, suffix)
    draw(results, path, panels=options.panels or None, variant=options.variant)
    return path


main = functools.partial(style.run, Options, _draw, __doc__)


def read(folder: pathlib.Path, suffix: str = "") -> dict[str, dict[str, Any]]:
    """Returns the results of the methods that have curves; a ValueError says what is wrong."""
    results = record.read_results(folder, suffix)
    results = {method: result for method, result in results.items() if method in DRAWABLE}
    if not results:
        names = ", ".join(f"{method}{suffix}.json" for method in DRAWABLE)
        raise ValueError(f"no results in {folder}: expected one of {names}")
    return results


def draw(
    results: dict[str, dict[str, Any]],
    path: pathlib.Path,
    *,
    panels: tuple[str, ...] | None = None,
    variant: str | None = None,
) -> None:
    """Draws the curves of one experiment, whose results are given by method.

    The panels are those of ``Options``. The file says the command, with the variant.
    """
    from matplotlib.lines import Line2D

    results = {method: results[method] for method in DRAWABLE if method in results}
    usual = _panels(results)
    panels = usual if panels is None else panels
    if not results or not panels:
        raise ValueError(
            f"expected methods and panels to draw, got {list(results)}, {list(panels)}"
        )
    for panel in set(panels) & set(_NEEDS):
        if not any(_column(curve, panel) for r in results.values() for curve in r["curves"]):
            raise ValueError(
                f"panel {panel}: none of the results ({', '.join(results)}) has it: "
                f"{_NEEDS[panel]}, or leave the panel out of --panels"
            )
    columns = min(COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    names = style.legend_names(results)
    names_a_row = min(2 * columns, 4)
    width = style.COLUMN if columns == 1 else style.PAGE
    height = rows * HEIGHT + math.ceil(len(names) / names_a_row) * style.LINE_HEIGHT
    size = {"shape": (rows, columns), "width": width, "height": height}
    command = f"python -m experiments.curves RUNS/{next(iter(results.values()))['config']}"
    if panels != usual:
        command += f" --panels {' '.join(panels)}"
    if variant:
        command += f" --variant {variant}"
    with style.figure(path, command, **size) as (figure, axes):
        for axis, panel in zip(axes.flat, panels, strict=False):
            _draw_panel(axis, panel, results)
        for axis in axes.flat[len(panels) :]:
            axis.set_visible(False)
        handles = [Line2D([], [], label=name, **_look(method)) for method, name in names.items()]
        figure.legend(handles=handles, loc="outside upper center", ncols=names_a_row)


def _panels(results):
    """Returns the panels that are drawn by default."""
    every = [curve for result in results.values() for curve in result["curves"]]
    if not any(_column(curve, _CLASSES) for curve in every):
        return PANELS
    rules = next((list(scores) for c in every if (scores := c["evaluations"].get("scores"))), [])
    return (*UNLABELLED[:2], *rules[:1], *UNLABELLED[2:])


def _column(curve, panel):
    """Returns what a key's curves have of a panel, with a value at each step; none if nothing."""
    part, name, _ = _CURVES[panel]
    columns = curve[part]
    return columns.get("scores", {}).get(name) if name in RULES else columns.get(name)


def _draw_panel(axis, panel, results):
    if panel == _CLASSES:
        _draw_classes(axis, results)
        return
    if panel == "schedules":
        _draw_schedules(axis, results)
    else:
        _draw_methods(axis, panel, results)
    if panel == "label-loss" and axis.lines:
        axis.set_yscale("log")
    elif panel in _DISTANCES:
        axis.set_ylim(0, 2.08)  # all that there can be; marks are whole
    elif panel not in RULES:  # whose scores may be below 0
        axis.set_ylim(0, 1.04 * axis.get_ylim()[1])  # marks are whole
    level = {"domain-loss": _chance(results), "domain-error": 0.5}.get(panel)
    if level is not None:
        axis.axhline(level, color="0.4", ls=(0, (1, 2)), lw=0.8)
        beside = axis.get_yaxis_transform()  # x as a share of the width
        axis.text(1, level, "chance", ha="right", va="bottom", color="0.3", transform=beside)
        axis.set_ylim(0, max(axis.get_ylim()[1], 1.15 * level))
    axis.set_xlim(0, 1.03 * max(result["steps"] for result in results.values()))
    axis.locator_params("x", nbins=4)
    axis.xaxis.set_major_formatter("{x:,.0f}")
    axis.set_xlabel("updates")


def _draw_methods(axis, panel, results):
    """Draws the curves of all methods that have those of a panel, as far as they are known."""
    part, _, label = _CURVES[panel]
    axis.set_ylabel(label)
    for method, result in results.items():
        entries = [curve[part] for curve in result["curves"]]
        longest = max(entries, key=lambda entry: len(entry.get("step", ())))
        if not longest.get("step"):
            continue
        values = np.full([len(entries), len(longest["step"])], np.nan)  # [key, step]
        for row, entry in zip(values, entries, strict=True):
            known = np.array(_column({part: entry}, panel) or (), float)  # null is NaN
            row[: len(known)] = known  # one that diverged ends early
        if panel.endswith("error"):
            values = 1 - values
        known = ~np.isnan(values).all(0)  # of no key: not finite, no target labels, or no G_d
        if not known.any():
            continue
        steps, values = np.array(longest["step"])[known], values[:, known]
        mean = np.nanmean(values, 0)
        if part == "training":
            mean = running_mean(mean, len(steps) // WINDOWS)
        if part == "training" or len(values) > 1:
            axis.plot(steps, values.T, color=METHODS[method].line.colour, lw=0.5, alpha=0.35)
        axis.plot(steps, mean, markevery=max(1, len(steps) // MARKS), **_look(method))


def _draw_classes(axis, results):
    """Draws how many images each method predicts to be of each class at the end, mean over keys."""
    counts = {}
    for method, result in results.items():
        ends = [
            {name: column[-1] for name, column in _column(curve, _CLASSES).items()}
            for curve, diverged in zip(result["curves"], result["diverged"], strict=True)
            if not diverged and _column(curve, _CLASSES)
        ]
        if ends:
            counts[method] = {name: np.mean([end[name] for end in ends]) for name in ends[0]}
    axis.set_xlabel(_CURVES[_CLASSES][2])
    if not counts:
        return
    names = list(next(iter(counts.values())))
    height = 0.8 / len(counts)
    for i, (method, each) in enumerate(counts.items()):
        places = np.arange(len(names)) + (i - (len(counts) - 1) / 2) * height
        axis.barh(places, list(each.values()), height, color=METHODS[method].line.colour)
    short = [name if len(name) <= LETTERS else f"{name[: LETTERS - 1]}…" for name in names]
    style.name_rows(axis, range(len(names)), dict(enumerate(short)))
    axis.invert_yaxis()
    if len(names) > NAMED:
        axis.set(yticks=[], ylabel=f"{len(names)} classes")


def _draw_schedules(axis, results):
    """Draws mu, and lambda of the first method with a domain classifier if there is one."""
    result = next(iter(_with_domain_loss(results) or results.values()))
    training = max((c["training"] for c in result["curves"]), key=lambda c: len(c.get("mu", ())))
    mu0 = result["resolved_config"]["mu0"]
    axis.set_ylabel(rf"schedules ($\mu_0$ = {mu0:g})")
    if not training.get("step"):  # all diverged before the first entry
        return
    axis.plot(training["step"], np.divide(training["mu"], mu0), "0.45", label=r"$\mu_p / \mu_0$")
    if _with_domain_loss(results):
        axis.plot(training["step"], training["lam"], "k", dashes=(5, 1.5), label=r"$\lambda_p$")
    axis.legend(loc="best")


def _with_domain_loss(results):
    return [result for result in results.values() if result.get("domain_loss") is not None]


def _chance(results):
    """Returns L_d, nats, of indistinguishable domains; None unless L_d is normalized one way."""
    ways = {result["domain_loss"]["normalization"] for result in _with_domain_loss(results)}
    return chance_domain_loss(ways.pop()) if len(ways) == 1 else None


def _look(method):
    line = METHODS[method].line
    return {"color": line.colour, "ls": line.dashes, "marker": line.marker, "ms": 3.2}


def running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Returns the mean of the ``window`` values around each, of fewer at the ends.

    An even window has one more value before than after; one of less than 1 is 1.
    """
    weights = np.ones(max(1, window))
    return np.convolve(values, weights, "same") / np.convolve(np.ones(len(values)), weights, "same")
