"""Linear SVMs on features of finished trainings: in place of G_y's last layer, and after alignment.

Features are the inputs of G_y's last layer. They are centred and divided by one number, the root
of their mean squared norm, so that C means the same for all networks and the geometry stays as it
is. LIBLINEAR fits one hyperplane for each class against the rest, with the squared hinge loss.
C is chosen on a fifth of the labelled training examples, held out. Only train-on-target uses labels
of the target here.
"""

import contextlib
import functools
import math
import pathlib
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, PredefinedSplit, cross_val_score
from sklearn.pipeline import Pipeline
from sklearn.svm import LinearSVC

from dann_jax import evaluation
from experiments import domains, record, runtime, train
from experiments.methods import Alignment, Method

__all__ = [
    "Examples",
    "accuracy",
    "align",
    "aligned",
    "aligned_entries",
    "choose",
    "converged",
    "fit",
    "svm",
    "svm_entries",
]

MOST = 5_000  # examples of each domain, drawn by the key: seconds for 100 features
GRID = (0.01, 0.1, 1.0, 10.0)  # of C, smallest first
HELD_OUT = 0.2  # share of the examples that C is chosen on
TOLERANCE, ITERATIONS = 1e-2, 1_000  # LIBLINEAR's own for this solver
SOLVER = "LIBLINEAR, one versus rest, squared hinge, primal"
SCALING = "centred, divided by the root mean squared norm"
HOW_C = "accuracy on a held-out fifth of the labelled training examples"
ORACLE = "oracle: the number of components with the best accuracy on the target's test labels"


class Examples(NamedTuple):
    """Features and labels."""

    x: np.ndarray  # [n, D]
    y: np.ndarray  # [n] int, negative where unknown


class Scaling(TransformerMixin, BaseEstimator):
    """Centres features and divides them by the root of their mean squared norm."""

    def fit(self, x, y=None):
        """Takes the mean and the scale of features ``[n, D]``."""
        self.mean_ = x.mean(0, dtype=np.float64)
        self.scale_ = math.sqrt(np.mean(np.sum((x - self.mean_) ** 2, 1))) or 1.0
        return self

    def transform(self, x):
        """Returns the scaled features."""
        return (x - self.mean_) / self.scale_


def _svm(c):
    machine = LinearSVC(C=c, dual=False, tol=TOLERANCE, max_iter=ITERATIONS)
    return Pipeline([("scaling", Scaling()), ("svm", machine)])


@contextlib.contextmanager
def _quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # `converged` reports it
        yield


def fit(examples: Examples, c: float) -> Pipeline:
    """Returns the linear SVM of labelled examples with the weight ``c`` of their losses.

    Raises:
      ValueError: There are fewer than two classes.
    """
    with _quiet():
        return _svm(c).fit(*examples)


def accuracy(head: Pipeline, test: Examples) -> float:
    """Returns the accuracy over the examples whose label is known; NaN without any."""
    known = test.y >= 0
    return float(head.score(test.x[known], test.y[known])) if known.any() else math.nan


def converged(head: Pipeline) -> bool:
    """Returns whether the solver came to its end before it had to stop."""
    return bool(head["svm"].n_iter_ < ITERATIONS)


def choose(examples: Examples) -> tuple[float, float]:
    """Returns the C of ``GRID`` that is best on the first fifth, fitted on the rest; and how good.

    Args:
      examples: In random order. Of several that are equally good the smallest C is taken.
    """
    count = len(examples.y)
    fold = np.where(np.arange(count) < math.ceil(HELD_OUT * count), 0, -1)  # -1: never tested on
    search = GridSearchCV(_svm(1.0), {"svm__C": GRID}, cv=PredefinedSplit(fold), refit=False)
    with _quiet():
        search.fit(*examples)
    return search.best_params_["svm__C"], float(search.best_score_)


def _cross_validated(examples, c):
    """Returns the mean accuracy of two fits, each on one half and measured on the other."""
    half = np.arange(len(examples.y)) < len(examples.y) // 2
    with _quiet():
        return np.mean(cross_val_score(_svm(c), *examples, cv=PredefinedSplit(half)))


def svm(study: train.Study, pair: domains.Pair, key: int, folder: pathlib.Path) -> dict[str, Any]:
    """Returns the accuracies of a linear SVM on the last hidden layer of a training in a folder.

    The key of the training also draws the examples that the SVM is trained on.

    Raises:
      ValueError: As ``train.restored``.
    """
    started = time.perf_counter()
    state = train.restored(study, key, folder)
    labelled, _ = domains.training_sets(pair, study.method)
    # The preprocessing of "source" is that of the labelled images, whichever they are.
    examples = _features(study, state, "source", _drawn(labelled, key))
    c, validation = choose(examples)
    head = fit(examples, c)
    accuracies = {
        f"{name}_accuracy": accuracy(head, _features(study, state, name)) for name in study.tests
    }
    return {
        **accuracies,
        "C": c,
        "validation_accuracy": validation,
        "converged": converged(head),
        **_about(study, examples, started),
    }


def svm_entries(every: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns the entries of a result file for the ``svm`` of each key."""
    names = ("C", "validation_accuracy", "source_accuracy", "converged")
    return {
        **record.summary("svm_", "svm_accuracy", _column(every, "target_accuracy")),
        "svm": _shared(every) | {name: _column(every, name) for name in names},
    }


def align(
    study: train.Study, pair: domains.Pair, method: Method, key: int, folder: pathlib.Path
) -> dict[str, Any]:
    """Returns the accuracies of a closed form on the features of a training in a folder.

    The training is one of ``study``, and its key also draws the examples of both domains.

    Raises:
      ValueError: As ``train.restored`` and ``aligned``.
    """
    started = time.perf_counter()
    state = train.restored(study, key, folder)
    source = _features(study, state, "source", _drawn(pair.source_train, key))
    target = _features(study, state, "target", _drawn(pair.target_train, key))
    tests = [_features(study, state, name) for name in ("source", "target")]
    return aligned(method.fit, source, target.x, *tests) | _about(study, source, started)


def aligned(
    fit_form: Callable[[np.ndarray, np.ndarray, np.ndarray], Alignment],
    source: Examples,
    target: np.ndarray,
    source_test: Examples,
    target_test: Examples,
) -> dict[str, Any]:
    """Returns accuracies of linear SVMs trained on the source after alignment by a closed form.

    Args:
      fit_form: As ``Method.fit``.
      source: Labelled examples, in random order.
      target: Features ``[n, D]`` of the target, without labels.
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


def aligned_entries(method: Method, every: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns the entries of a result file for the ``align`` of each key."""
    return {
        **record.summary("", "target_accuracy", _column(every, "target_accuracy")),
        "source_accuracy": _column(every, "source_accuracy"),
        "components": _column(every, "components"),
        "selection": method.selection,
        **record.summary("oracle_", "oracle_accuracy", _column(every, "oracle_accuracy")),
        "oracle_components": _column(every, "oracle_components"),
        "oracle_selection": ORACLE,
        "by_components": {
            "components": every[0]["by_components"]["components"],
            "target_accuracy": [each["by_components"]["target_accuracy"] for each in every],
        },
        "svm": {
            **_shared(every),
            "C": _column(every, "C"),
            **{name: [each["fitted"][name] for each in every] for name in every[0]["fitted"]},
            "validation_accuracy": _column(every, "validation_accuracy"),
            "converged": _column(every, "converged"),
        },
        "wall_seconds": round(sum(_column(every, "seconds")), 1),
    }


def _drawn(images, key):
    """Returns at most ``MOST`` of the images, in an order that the key decides."""
    count = len(images if isinstance(images, domains.Streamed) else images.label)
    return domains.chosen(images, np.random.default_rng(key).permutation(count)[:MOST])


def _features(study, state, name, images=None):
    """Returns features of images of a domain, by default of those to test on."""
    test, preprocess, domain = study.tests[name]
    features = functools.partial(
        evaluation.features,
        study.model,
        state,
        layer=evaluation.last_hidden_layer(study.model),
        preprocess=preprocess,
        domain=domain,
    )
    return Examples(*domains.over_blocks(test if images is None else images, features))


def _about(study, examples, started):
    versions = runtime.versions()
    return {
        "layer": evaluation.last_hidden_layer(study.model),
        "features": examples.x.shape[1],
        "examples": len(examples.y),
        "versions": {name: versions[name] for name in ("dann_jax", "scikit-learn")},
        "seconds": round(time.perf_counter() - started, 1),
    }


def _shared(every):
    return {
        "solver": SOLVER,
        "scaling": SCALING,
        **{name: every[0][name] for name in ("layer", "features", "examples", "versions")},
        "C_grid": list(GRID),
        "C_selection": HOW_C,
    }


def _column(every, name):
    return [each[name] for each in every]
