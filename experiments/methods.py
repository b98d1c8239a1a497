"""The methods, as far as figures show them."""

import dataclasses
from typing import Any, NamedTuple

__all__ = ["DRAWN", "METHODS", "Line", "Method"]


class Line(NamedTuple):
    """The look of a method's curves; no two have the same dashes and marks, for print in grey."""

    colour: str
    dashes: Any
    marker: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
    """How a method is shown."""

    name: str
    label: str
    line: Line | None = None
    adversarial: bool = False
    few_labels: bool = False


METHODS = {
    method.name: method
    for method in (
        Method(
            name="few-labels",
            label="few labels",
            line=Line("#888888", ":", "v"),
            few_labels=True,
        ),
        Method(
            name="source-only",
            label="source-only",
            line=Line("#0077bb", (0, (5, 1.5)), "s"),
        ),
        Method(name="sa", label="SA"),
        Method(
            name="source-and-few-labels",
            label="source and few labels",
            line=Line("#ee7733", (0, (5, 1.5, 1, 1.5)), "D"),
            few_labels=True,
        ),
        Method(
            name="dann",
            label="**DANN**",
            line=Line("#cc3311", "-", "o"),
            adversarial=True,
        ),
        Method(
            name="dann-and-few-labels",
            label="DANN and few labels",
            line=Line("#111111", "-", "P"),
            adversarial=True,
            few_labels=True,
        ),
        Method(
            name="train-on-target",
            label="train-on-target",
            line=Line("#228833", (0, (1, 1)), "^"),
        ),
    )
}

DRAWN = ("source-only", "dann")
