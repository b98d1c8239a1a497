"""Linear SVMs on features of finished trainings: in place of G_y's last layer, and after SA.

Features are the inputs of G_y's last layer. They are centred and divided by one number, the root
of their mean squared norm, so that C means the same for all networks and the geometry stays as it
is. LIBLINEAR fits one hyperplane for each class against the rest, with the squared hinge loss.
C is chosen on a fifth of the labelled training examples, held out; no label of the target is used
unless the method was trained on them.
"""

import functools
import math
import pathlib
import time
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from dann_jax import alignment, evaluation
from experiments import domains, results
from experiments import study as studies

__all__ = [
    "HEADED",
    "Examples",
    "Head",
    "aligned",
    "aligned_entries",
    "choose",
    "fit",
    "sa",
    "svm",
    "svm_entries",
]

HEADED = ("source-only", "dann", "train-on-target")  # methods whose last layer an SVM replaces
MOST = 5_000  # examples of each domain, drawn by the key: seconds for 100 features
GRID = (0.01, 0.1, 1.0, 10.0)  # of C, smallest first
HELD_OUT = 0.2  # share of the examples that C is chosen on
COMPONENTS = range(2, 61)  # the paper's, of which there may be fewer in a layer
TOLERANCE, ITERATIONS = 1e-2, 1_000  # LIBLINEAR's own for this solver
SOLVER = "LIBLINEAR, one versus rest, squared hinge, primal"
SCALING = "centred, divided by the root mean squared norm"
HOW_C = "accuracy on a held-out fifth of the labelled training examples"
HOW_D = (
    "no target labels: two-fold cross-validation on the source, among those up to the largest "
    "whose consistency bound holds, or 2 (bound: Fernando et al. 2013; our delta 0.1, gamma 1e5)"
)
ORACLE = "oracle: the number of components with the best accuracy on the target's test labels"


class Examples(NamedTuple):
    """Features and labels."""

    x: np.ndarray  # [n, D]
    y: np.ndarray  # [n] int, negative where unknown


class Head(NamedTuple):
    """A fitted linear SVM."""

    mean: np.ndarray  # [D], of the examples that it was fitted to
    scale: float  # root of their mean squared norm about it
    machine: Any  # LinearSVC

    def accuracy(self, test: Examples) -> float:
        """Returns the accuracy over the examples whose label is known; NaN without any."""
        known = test.y >= 0
        if not known.any():
            return math.nan
        found = self.machine.predict((test.x[known] - self.mean) / self.scale)
        return float(np.mean(found == test.y[known]))

    @property
    def converged(self) -> bool:
        """Whether the solver came to its end before it had to stop."""
        return bool(self.machine.n_iter_ < ITERATIONS)


def fit(train: Examples, c: float) -> Head:
    """Returns the linear SVM of labelled examples with the weight ``c`` of their losses.

    Raises:
      ValueError: There are fewer than two classes.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.svm import LinearSVC

    mean = train.x.mean(0, dtype=np.float64)
    x = train.x - mean
    scale = math.sqrt(np.mean(np.sum(x**2, 1))) or 1.0
    machine = LinearSVC(C=c, dual=False, tol=TOLERANCE, max_iter=ITERATIONS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # `converged` tells
        machine.fit(x / scale, train.y)
    return Head(mean, scale, machine)


def choose(train: Examples) -> tuple[float, float]:
    """Returns the C of ``GRID`` that is best on the first fifth, fitted on the rest; and how good.

    Args:
      train: In random order. Of several that are equally good the smallest C is taken.
    """
    count = math.ceil(HELD_OUT * len(train.y))
    held_out, rest = (Examples(train.x[part], train.y[part]) for part in _parts(count))
    accuracy = {c: fit(rest, c).accuracy(held_out) for c in GRID}
    best = max(GRID, key=accuracy.get)
    return best, accuracy[best]


def _parts(count):
    return slice(count), slice(count, None)


def svm(study: studies.Study, pair: domains.Pair, key: int, folder: pathlib.Path) -> dict[str, Any]:
    """Returns what a linear SVM in place of G_y's last layer makes of a finished training.

    Args:
      study: The method, one of ``HEADED``.
      pair: The images of both domains.
      key: Of the training; it also draws the examples.
      folder: Where the trainings of the method lie.

    Returns:
      Accuracies on both domains' test images, C, and what belongs to them.

    Raises:
      ValueError: As ``study.restored``.
    """
    started = time.perf_counter()
    state = studies.restored(study, key, folder)
    labelled, _ = domains.training_sets(pair, study.method)
    _, preprocess, domain = study.tests["source"]  # the labelled images are what it is made for
    train = _features(study, state, _drawn(labelled, key), preprocess, domain)
    c, validation = choose(train)
    head = fit(train, c)
    return {
        **{
            f"{name}_accuracy": head.accuracy(_features(study, state, *test))
            for name, test in study.tests.items()
        },
        "C": c,
        "validation_accuracy": validation,
        "converged": head.converged,
        **_about(study, train, started),
    }


def svm_entries(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns the entries of a result file for what ``svm`` has found with each key."""
    return {
        **_summary("svm", "svm_accuracy", [one["target_accuracy"] for one in found]),
        "svm": {
            **_shared(found),
            "C": [one["C"] for one in found],
            "validation_accuracy": [one["validation_accuracy"] for one in found],
            "source_accuracy": [one["source_accuracy"] for one in found],
            "converged": [one["converged"] for one in found],
        },
    }


def sa(study: studies.Study, pair: domains.Pair, key: int, folder: pathlib.Path) -> dict[str, Any]:
    """Returns what subspace alignment makes of the features of a finished source-only training.

    Args:
      study: Source-only.
      pair: The images of both domains.
      key: Of the training; it also draws the examples.
      folder: Where the trainings of source-only lie.

    Returns:
      What ``aligned`` returns, and what belongs to it.

    Raises:
      ValueError: As ``study.restored``.
    """
    started = time.perf_counter()
    state = studies.restored(study, key, folder)

    def features(images, name):
        return _features(study, state, images, *study.tests[name][1:])

    source = features(_drawn(pair.source_train, key), "source")
    target = features(_drawn(pair.target_train, key), "target")
    tests = [features(study.tests[name][0], name) for name in ("source", "target")]
    return aligned(source, target.x, *tests) | _about(study, source, started)


def aligned(
    source: Examples, target: np.ndarray, source_test: Examples, target_test: Examples
) -> dict[str, Any]:
    """Returns accuracies of linear SVMs trained on the source after subspace alignment.

    Args:
      source: Labelled examples, in random order.
      target: Features ``[n, D]`` of the target, without labels.
      source_test: To measure the accuracy on.
      target_test: To measure the accuracy on. Its labels decide nothing but the entries named
        ``oracle``.

    Returns:
      ``components``, chosen without labels of the target, with ``target_accuracy`` and
      ``source_accuracy``; the same of the oracle's choice; and the target's accuracies
      ``by_components`` for each number of components.

    Raises:
      ValueError: There are too few features or examples for two components.
    """
    bases = alignment.principal_subspace(source.x), alignment.principal_subspace(target)
    count = min(*source.x.shape, len(target))
    candidates = [d for d in COMPONENTS if d < count]
    if not candidates:
        raise ValueError(
            f"subspace alignment in {COMPONENTS[0]} components or more needs more features and "
            f"examples than that, got {count}"
        )
    most = candidates[-1]
    of_source = bases[0].project(source.x, most)
    of_target = bases[1].project(target_test.x, most)
    stable = max(alignment.stable_components(*bases), candidates[0])
    tried = [d for d in candidates if d <= stable]

    def train(d):
        return Examples(of_source[:, :d] @ alignment.align(*bases, d), source.y)

    c, _ = choose(train(tried[-1]))
    validation = [_cross_validated(train(d), c) for d in tried]
    heads = {d: fit(train(d), c) for d in candidates}
    accuracy = [h.accuracy(Examples(of_target[:, :d], target_test.y)) for d, h in heads.items()]
    chosen, oracle = tried[int(np.argmax(validation))], candidates[int(np.argmax(accuracy))]
    tested = bases[0].project(source_test.x, chosen) @ alignment.align(*bases, chosen)
    return {
        "components": chosen,
        "target_accuracy": accuracy[candidates.index(chosen)],
        "source_accuracy": heads[chosen].accuracy(Examples(tested, source_test.y)),
        "oracle_components": oracle,
        "oracle_accuracy": accuracy[candidates.index(oracle)],
        "by_components": {"components": candidates, "target_accuracy": accuracy},
        "stable_components": stable,
        "validation_accuracy": max(validation),
        "C": c,
        "converged": all(head.converged for head in heads.values()),
    }


def _cross_validated(train, c):
    """Returns the mean accuracy of two fits, each on one half and measured on the other."""
    halves = [Examples(train.x[part], train.y[part]) for part in _parts(len(train.y) // 2)]
    return np.mean([fit(a, c).accuracy(b) for a, b in (halves, halves[::-1])])


def aligned_entries(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns the entries of a result file for what ``sa`` has found with each key."""
    return {
        **_summary("", "target_accuracy", [one["target_accuracy"] for one in found]),
        "source_accuracy": [one["source_accuracy"] for one in found],
        "components": [one["components"] for one in found],
        "selection": HOW_D,
        **_summary("oracle", "oracle_accuracy", [one["oracle_accuracy"] for one in found]),
        "oracle_components": [one["oracle_components"] for one in found],
        "oracle_selection": ORACLE,
        "by_components": {
            "components": found[0]["by_components"]["components"],
            "target_accuracy": [one["by_components"]["target_accuracy"] for one in found],
        },
        "svm": {
            **_shared(found),
            "C": [one["C"] for one in found],
            "stable_components": [one["stable_components"] for one in found],
            "validation_accuracy": [one["validation_accuracy"] for one in found],
            "converged": [one["converged"] for one in found],
        },
        "wall_seconds": round(sum(one["seconds"] for one in found), 1),
    }


def _drawn(images, key):
    """Returns at most ``MOST`` of the images, in an order that the key decides."""
    count = len(images if isinstance(images, domains.Streamed) else images.label)
    return domains.chosen(images, np.random.default_rng(key).permutation(count)[:MOST])


def _features(study, state, images, preprocess, domain):
    features = functools.partial(
        evaluation.features,
        study.model,
        state,
        layer=evaluation.last_hidden_layer(study.model),
        preprocess=preprocess,
        domain=domain,
    )
    return Examples(*domains.over_blocks(images, features))


def _about(study, train, started):
    versions = results.versions()
    return {
        "layer": evaluation.last_hidden_layer(study.model),
        "features": train.x.shape[1],
        "examples": len(train.y),
        "versions": {name: versions[name] for name in ("dann_jax", "scikit-learn")},
        "seconds": round(time.perf_counter() - started, 1),
    }


def _shared(found):
    return {
        "solver": SOLVER,
        "scaling": SCALING,
        **{name: found[0][name] for name in ("layer", "features", "examples", "versions")},
        "C_grid": list(GRID),
        "C_selection": HOW_C,
    }


def _summary(prefix, name, accuracy):
    # Null in a file is NaN here: a target without labels.
    mean, std = results.mean_and_std([math.nan if a is None else a for a in accuracy])
    before = f"{prefix}_" if prefix else ""
    return {name: accuracy, f"{before}mean": mean, f"{before}std": std}
