"""The methods that are compared: a table with one entry each, and their objectives.

A method either trains, by descent on its objective, or is a closed form on the features of another
method's trainings. To add one, write its objective (as ``dann_jax.objective.Objective``) or its
closed form, and its entry. Nothing else in ``experiments`` knows a method by its name.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np

from dann_jax import objectives
from dann_jax.alignment import Alignment, subspace_alignment
from dann_jax.alignment.estimators import (
    DLID,
    CorrelationAlignment,
    GeodesicFlowKernel,
    closed_form,
)
from dann_jax.networks import DannModel
from dann_jax.objective import Objective, label_objective, reversed_objective
from experiments.settings import Config

__all__ = [
    "DEFAULT_METHODS",
    "DRAWN",
    "METHODS",
    "WITHOUT_TARGET_LABELS",
    "Line",
    "Method",
    "check_settings",
    "gap_covered",
    "gap_of",
    "of_names",
]

SMALLEST_GAP = 0.02  # between the bounds, accuracy: a share of less is a share of noise


class Line(NamedTuple):
    """The look of a method's curves; no two have the same dashes and marks, for print in grey."""

    colour: str
    dashes: Any
    marker: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
    """What a method is trained on, how, and how its result is shown."""

    name: str  # on the command line and of its result file
    label: str  # in the tables
    default: bool = True  # one of those that an experiment consists of, unless it names its own
    bound: Literal["lower", "upper"] | None = None  # end of the gap that the others may cover
    line: Line | None = None  # of its curves

    # A training.
    trains_on: tuple[Literal["source", "target", "few", "few + target"], ...] = ()
    """Labelled images, and images beside them: of the target without labels, the few with labels,
    or these first and then the others."""
    objective: Callable[[Config], Objective] | None = None
    model: Callable[[DannModel], DannModel] | None = None  # what it makes of the network
    length: Literal["steps", "baseline_steps"] = "steps"  # the setting with its number of updates
    adversarial: bool = False  # whether it trains G_d: with lambda and L_d
    teacher: bool = False  # whether it learns from the average of the parameters
    penalties: dict[str, str] = dataclasses.field(default_factory=dict, hash=False)
    """What it adds to L_y and L_d, as its ``Terms`` name it, and the setting that weighs it."""
    svm_head: bool = False  # whether a linear SVM is measured in place of its last layer

    # A closed form.
    aligns: str | None = None  # the method whose features it takes
    fit: Callable[[np.ndarray, np.ndarray, np.ndarray], Alignment] | None = None
    """Features and labels of the source, and features of the target, to the closed form."""
    selection: str = "last step"  # how its result was chosen

    @property
    def adapts(self) -> bool:
        """Whether the training treats target images as such, with their own batch statistics."""
        return any("target" in part for part in self.trains_on[1:])

    @property
    def few_labels(self) -> bool:
        """Whether it trains on a few labels of the target."""
        return any("few" in part for part in self.trains_on)

    @property
    def needs_target_labels(self) -> str:
        """What it needs all labels of the target for; empty where it does not."""
        if self.aligns:
            return "to measure it with"
        return "to train on" if self.trains_on[0] == "target" else ""

    def steps(self, config: Config) -> int:
        """Returns its number of updates; of a closed form that of the trainings it aligns."""
        if self.aligns:
            return METHODS[self.aligns].steps(config)
        return getattr(config, self.length) or config.steps


def _label(_):
    return label_objective


def _label_of_both(_):
    """Returns ``label_objective`` on the source and the few labelled examples of the target."""

    def objective(theta, batch, lam, apply, *, axis_name=None):
        joint = batch._replace(
            source_image=jnp.concatenate([batch.source_image, batch.target_image]),
            source_label=jnp.concatenate([batch.source_label, batch.target_label]),
            target_label=None,
        )
        return label_objective(theta, joint, lam, apply, axis_name=axis_name)

    return objective


def _with(objective, **names):
    """Returns an objective whose options are the settings with these names."""

    def of_settings(config):
        options = {option: getattr(config, name) for option, name in names.items()}
        return functools.partial(objective, **options)

    return of_settings


def _dan(config):
    return functools.partial(
        objectives.dan_objective,
        weight=config.alignment_weight,
        features=config.network.startswith("office"),  # those of a bottleneck, not of convolutions
    )


_OF_L_D = {"normalization": "normalization", "domain_weight": "domain_weight"}
_OF_VADA = {
    **_OF_L_D,
    "target_weight": "entropy_weight",
    "source_weight": "vat_weight",
    "radius": "vat_radius",
}
_OF_TEACHER = {
    **_OF_L_D,
    "weight": "consistency_weight",
    "confidence": "confidence",
    "entropy_weight": "entropy_weight",
}

METHODS = {
    method.name: method
    for method in (  # in the order in which they are trained and shown
        Method(
            name="few-labels",
            label="few labels",
            default=False,
            line=Line("#888888", ":", "v"),
            trains_on=("few",),
            objective=_label,
            length="baseline_steps",
        ),
        Method(
            name="source-only",
            label="source-only",
            bound="lower",
            line=Line("#0077bb", (0, (5, 1.5)), "s"),
            trains_on=("source",),
            objective=_label,
            length="baseline_steps",
            svm_head=True,
        ),
        Method(
            name="sa",
            label="SA",
            aligns="source-only",
            fit=subspace_alignment,
            selection="no target labels: two-fold cross-validation on the source, among those up "
            "to the largest whose consistency bound holds, or 2 (bound: Fernando et al. 2013; our "
            "delta 0.1, gamma 1e5)",
        ),
        Method(
            name="gfk",
            label="GFK",
            default=False,
            aligns="source-only",
            fit=closed_form(GeodesicFlowKernel(n_components=None)),
            selection="no target labels: the smallest dimension at which the subspaces of both "
            "domains have a direction orthogonal to that of the joint data (Gong et al. 2012)",
        ),
        Method(
            name="coral",
            label="CORAL",
            default=False,
            aligns="source-only",
            fit=closed_form(CorrelationAlignment()),
            selection="nothing to choose",
        ),
        Method(
            name="dlid",
            label="DLID",
            default=False,
            aligns="source-only",
            fit=closed_form(DLID()),
            selection="nothing to choose: 5 data sets, 64 codes each",
        ),
        Method(
            name="source-and-few-labels",
            label="source and few labels",
            default=False,
            line=Line("#ee7733", (0, (5, 1.5, 1, 1.5)), "D"),
            trains_on=("source", "few"),
            objective=_label_of_both,
            length="baseline_steps",
        ),
        Method(
            name="ddc",
            label="DDC",
            default=False,
            line=Line("#009988", (0, (3, 1)), "<"),
            trains_on=("source", "target"),
            objective=_with(objectives.ddc_objective, weight="alignment_weight"),
            penalties={"mmd": "alignment_weight"},
            svm_head=True,
        ),
        Method(
            name="dan",
            label="DAN",
            default=False,
            line=Line("#33bbee", (0, (3, 1, 1, 1)), ">"),
            trains_on=("source", "target"),
            objective=_dan,
            penalties={"mmd": "alignment_weight"},
            svm_head=True,
        ),
        Method(
            name="deep-coral",
            label="Deep CORAL",
            default=False,
            line=Line("#997700", (0, (1, 2)), "p"),
            trains_on=("source", "target"),
            objective=_with(objectives.coral_objective, weight="alignment_weight"),
            penalties={"coral": "alignment_weight"},
            svm_head=True,
        ),
        Method(
            name="dann",
            label="**DANN**",
            line=Line("#cc3311", "-", "o"),
            trains_on=("source", "target"),
            objective=_with(reversed_objective, **_OF_L_D),
            adversarial=True,
            svm_head=True,
        ),
        Method(
            name="cdan",
            label="CDAN",
            default=False,
            line=Line("#994455", (0, (6, 2)), "h"),
            trains_on=("source", "target"),
            objective=_with(objectives.cdan_objective, **_OF_L_D),
            model=objectives.conditioned,
            adversarial=True,
            svm_head=True,
        ),
        Method(
            name="cdan-e",
            label="CDAN+E",
            default=False,
            line=Line("#ee99aa", (0, (6, 2, 1, 2)), "H"),
            trains_on=("source", "target"),
            objective=_with(
                functools.partial(objectives.cdan_objective, entropy_conditioning=True), **_OF_L_D
            ),
            model=objectives.conditioned,
            adversarial=True,
            svm_head=True,
        ),
        Method(
            name="entropy",
            label="DANN + entropy",
            default=False,
            line=Line("#aa3377", (0, (8, 1)), "*"),
            trains_on=("source", "target"),
            objective=_with(
                objectives.entropy_objective, **_OF_L_D, entropy_weight="entropy_weight"
            ),
            adversarial=True,
            penalties={"entropy": "entropy_weight"},
            svm_head=True,
        ),
        Method(
            name="vada",
            label="VADA",
            default=False,
            line=Line("#6699cc", (0, (8, 1, 1, 1)), "X"),
            trains_on=("source", "target"),
            objective=_with(objectives.vada_objective, **_OF_VADA),
            adversarial=True,
            penalties={
                "entropy": "entropy_weight",
                "vat_target": "entropy_weight",
                "vat_source": "vat_weight",
            },
            svm_head=True,
        ),
        Method(
            name="mean-teacher",
            label="mean teacher",
            default=False,
            line=Line("#bbaa00", (0, (4, 1, 1, 1, 1, 1)), "d"),
            trains_on=("source", "target"),
            objective=_with(objectives.mean_teacher_objective, **_OF_TEACHER),
            adversarial=True,
            teacher=True,
            penalties={
                "consistency": "consistency_weight",
                "balance": "consistency_weight",
                "entropy": "entropy_weight",
            },
            svm_head=True,
        ),
        Method(
            name="dann-and-few-labels",
            label="DANN and few labels",
            default=False,
            line=Line("#111111", "-", "P"),
            trains_on=("source", "few + target"),
            objective=_with(reversed_objective, **_OF_L_D),
            adversarial=True,
        ),
        Method(
            name="train-on-target",
            label="train-on-target",
            bound="upper",
            line=Line("#228833", (0, (1, 1)), "^"),
            trains_on=("target",),
            objective=_label,
            length="baseline_steps",
            svm_head=True,
        ),
    )
}

DEFAULT_METHODS = tuple(name for name, method in METHODS.items() if method.default)
WITHOUT_TARGET_LABELS = tuple(n for n in DEFAULT_METHODS if not METHODS[n].needs_target_labels)
DRAWN = ("source-only", "dann")  # whose features the paper draws side by side


def of_names(names: Iterable[str]) -> list[Method]:
    """Returns methods in the order of the table."""
    return [method for method in METHODS.values() if method.name in set(names)]


def check_settings(config: Config, methods: Iterable[Method]) -> None:
    """Raises a ValueError where a method needs few labels, or an average, and has none."""
    for method in methods:
        if method.few_labels and config.few_labels is None:
            raise ValueError(
                f"{method.name} trains on some labels of the target, but few_labels is None: "
                "set with --few-labels how many images of each class have one"
            )
        if method.teacher and config.average_decay is None:
            raise ValueError(
                f"{method.name} learns from an average of the parameters, but average_decay is "
                "None: set it with --average-decay, 0.99 say"
            )


def gap_covered(accuracy: float, lower: float, upper: float) -> float | None:
    """Returns (accuracy - lower) / (upper - lower); None where the gap is below two points."""
    gap = upper - lower
    return (accuracy - lower) / gap if gap >= SMALLEST_GAP else None


def gap_of(method: Method, means: dict[str, float | None]) -> float | None:
    """Returns the share of the gap between the bounds among ``means``; None without a figure."""
    bounds = {each.bound: means.get(each.name) for each in METHODS.values() if each.bound}
    accuracy = means.get(method.name)
    if method.bound or None in (accuracy, *bounds.values()):
        return None
    return gap_covered(accuracy, **bounds)
