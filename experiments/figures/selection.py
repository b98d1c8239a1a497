"""Draws what rules say of trainings against the accuracy that these reach on the target."""

import math
import pathlib
import textwrap
from typing import Any

from experiments.figures import style

__all__ = ["draw"]

COLUMNS = 4  # of panels
HEIGHT = 1.7  # of a row of panels, inches
WIDTH = 21  # of a title, characters


def draw(content: dict[str, Any], path: pathlib.Path) -> None:
    """Draws the content of a study of ``experiments.selection``: a panel for each rule."""
    rules, trainings = content["rules"], content["trainings"]
    columns = min(COLUMNS, len(rules))
    rows = math.ceil(len(rules) / columns)
    size = {"shape": (rows, columns), "width": style.PAGE, "height": rows * HEIGHT}
    command = f"python -m experiments.selection RUNS/{content['config']}"
    with style.figure(path, command, **size) as (figure, axes):
        for axis, (rule, row) in zip(axes.flat, rules.items(), strict=False):
            scores = [each["scores"][rule] for each in trainings]
            reached = [each["target_accuracy"] for each in trainings]
            axis.plot(scores, reached, style.DOMAINS["source"].marker, ms=2.5, mew=0, color="0.25")
            correlation = row["rank_correlation"]
            shown = "" if correlation is None else f"\n$\\rho$ = {correlation:.2f}"
            axis.set_title(textwrap.fill(rule.replace("_", " "), WIDTH) + shown)
            axis.locator_params(nbins=3)
        for axis in axes.flat[len(rules) :]:
            axis.set_visible(False)
        figure.supylabel("target test accuracy", fontsize=8)
        figure.supxlabel("score at the last step", fontsize=8)
