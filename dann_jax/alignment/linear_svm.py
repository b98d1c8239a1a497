"""Linear SVMs on features: as a head, and after a closed form has aligned two domains.

Features are centred and divided by one number, the root of their mean squared norm, so that C means
the same for all networks and the geometry stays as it is. LIBLINEAR fits one hyperplane for each
class against the rest, with the squared hinge loss. C is chosen on a fifth of the examples, held
out.
"""

import contextlib
import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, PredefinedSplit, cross_val_score
from sklearn.pipeline import Pipeline
from sklearn.svm import LinearSVC

from dann_jax.alignment.subspace import Alignment
from dann_jax.checks import check_finite, check_labels

__all__ = ["GRID", "Examples", "accuracy", "aligned", "check_parts", "choose", "converged", "fit"]

GRID = (0.01, 0.1, 1.0, 10.0)  # of C, smallest first
HELD_OUT = 0.2  # share of the examples that C is chosen on
SQUARED = 1e-100, 1e100  # features between them have squares that are numbers
TOLERANCE, ITERATIONS = 1e-2, 1_000  # LIBLINEAR's own for this solver


class Examples(NamedTuple):
    """Features and labels."""

    x: np.ndarray  # [n, D]
    y: np.ndarray  # [n] int, negative where unknown


class _Scaling(TransformerMixin, BaseEstimator):
    """Centres features and divides them by the root of their mean squared norm."""

    def fit(self, x, y=None):
        self.mean_ = x.mean(0, dtype=np.float64)
        moved = x - self.mean_
        largest = float(np.abs(moved).max())
        unit = 1.0 if SQUARED[0] < largest < SQUARED[1] else largest or 1.0
        self.scale_ = unit * math.sqrt(np.mean(np.sum((moved / unit) ** 2, 1))) or 1.0
        return self

    def transform(self, x):
        return (x - self.mean_) / self.scale_


def _svm(c):
    machine = LinearSVC(C=c, dual=False, tol=TOLERANCE, max_iter=ITERATIONS)
    return Pipeline([("scaling", _Scaling()), ("svm", machine)])


@contextlib.contextmanager
def _quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # `converged` reports it
        yield


def _check(examples, c=None):
    """Raises unless examples are features and labels, all known to fit with the weight ``c``."""
    x, y = map(np.shape, examples)
    if len(x) != 2 or y != x[:1]:
        raise ValueError(f"expected features [n, D] and labels [n], got {list(x)} and {list(y)}")
    check_finite(examples.x, "features")
    check_labels(examples.y)
    if c is None:
        return
    labels = np.asarray(examples.y)
    if (labels < 0).any() or len(np.unique(labels)) < 2:
        raise ValueError(
            "expected a label of each example and at least 2 classes to fit a linear SVM, got "
            f"{(labels < 0).sum()} of {len(labels)} without a label and classes "
            f"{np.unique(labels[labels >= 0])[:5].tolist()}: leave out examples of unknown label"
        )
    if not 0 < c < math.inf:
        raise ValueError(f"expected a weight C of the losses that is positive, got {c}")


def fit(examples: Examples, c: float) -> Pipeline:
    """Returns the linear SVM of labelled examples with the weight ``c`` of their losses.

    Raises:
      ValueError: There are fewer than two classes, or an example without a label.
      TypeError: Labels are not integers.
    """
    _check(examples, c)
    with _quiet():
        return _svm(c).fit(*examples)


def accuracy(head: Pipeline, test: Examples) -> float:
    """Returns the accuracy over the examples whose label is known; NaN without any."""
    _check(test)
    known = np.asarray(test.y) >= 0
    return float(head.score(test.x[known], test.y[known])) if known.any() else math.nan


def converged(head: Pipeline) -> bool:
    """Returns whether the solver came to its end before it had to stop."""
    return bool(head["svm"].n_iter_ < ITERATIONS)


def check_parts(labels: np.ndarray, *, halves: bool = False) -> None:
    """Raises where a part that is fitted to, to choose by the others, does not tell classes apart.

    Args:
      labels: ``[n]``, all known, in the order of the examples.
      halves: Whether each half is fitted to, as for a number of components; else all but the first
        fifth, as for C.

    Raises:
      ValueError: All examples of such a part have one class.
    """
    place = len(labels) // 2 if halves else math.ceil(HELD_OUT * len(labels))
    for part in (labels[:place], labels[place:]) if halves else (labels[place:],):
        if len(np.unique(part)) < 2:
            what = "each half" if halves else "all but the first fifth"
            raise ValueError(
                f"expected at least 2 classes in {what} of the {len(labels)} examples, which a "
                f"linear SVM is fitted to, got {len(part)} of {np.unique(part).tolist()}: give "
                "more examples, in random order"
            )


def choose(examples: Examples) -> tuple[float, float]:
    """Returns the C of ``GRID`` that is best on the first fifth, fitted on the rest; and how good.

    Args:
      examples: In random order. Of several that are equally good the smallest C is taken.

    Raises:
      ValueError: As ``fit``, or those that are not held out have one class.
    """
    _check(examples, GRID[0])
    count = len(examples.y)
    held_out = math.ceil(HELD_OUT * count)
    check_parts(examples.y)
    fold = np.where(np.arange(count) < held_out, 0, -1)  # -1: never tested on
    search = GridSearchCV(_svm(1.0), {"svm__C": GRID}, cv=PredefinedSplit(fold), refit=False)
    with _quiet():
        search.fit(*examples)
    return search.best_params_["svm__C"], float(search.best_score_)


def aligned(
    fit_form: Callable[[np.ndarray, np.ndarray, np.ndarray], Alignment],
    source: Examples,
    target: np.ndarray,
    *,
    source_test: Examples,
    target_test: Examples,
) -> dict[str, Any]:
    """Returns accuracies of linear SVMs trained on the source after alignment by a closed form.

    Without labels of the target, the number of components is chosen by two-fold cross-validation on
    the source.

    Args:
      fit_form: Source features, their labels and target features to the closed form, as
        ``subspace_alignment``.
      source: Labelled examples, in random order.
      target: Features ``[n, D]`` of the target.
      source_test: To measure the accuracy on.
      target_test: To measure the accuracy on. Its labels decide only the entries named ``oracle``.

    Returns:
      ``components``, chosen without labels of the target, with its accuracies; those of the
      oracle's choice; and the target's accuracies ``by_components``.
    """
    form = fit_form(source.x, source.y, target)
    most = form.components[-1]
    of_source, of_target = form.source(source.x, most), form.target(target_test.x, most)
    c, _ = choose(Examples(of_source(form.eligible[-1]), source.y))
    validation = [_cross_validated(Examples(of_source(d), source.y), c) for d in form.eligible]
    heads = {d: fit(Examples(of_source(d), source.y), c) for d in form.components}
    by_components = {
        d: accuracy(head, Examples(of_target(d), target_test.y)) for d, head in heads.items()
    }
    chosen = form.eligible[int(np.argmax(validation))]
    oracle = form.components[int(np.argmax(list(by_components.values())))]
    tested = Examples(form.source(source_test.x, chosen)(chosen), source_test.y)
    return {
        "components": chosen,
        "target_accuracy": by_components[chosen],
        "source_accuracy": accuracy(heads[chosen], tested),
        "oracle_components": oracle,
        "oracle_accuracy": by_components[oracle],
        "by_components": {
            "components": form.components,
            "target_accuracy": list(by_components.values()),
        },
        "fitted": form.entries,
        "validation_accuracy": max(validation),
        "C": c,
        "converged": all(map(converged, heads.values())),
    }


def _cross_validated(examples, c):
    """Returns the mean accuracy of two fits, each on one half and measured on the other."""
    check_parts(examples.y, halves=True)
    half = np.arange(len(examples.y)) < len(examples.y) // 2
    with _quiet():
        return np.mean(cross_val_score(_svm(c), *examples, cv=PredefinedSplit(half)))
