"""Linear SVMs on features of finished trainings: in place of G_y's last layer, and after alignment.

Features are the inputs of G_y's last layer. Only train-on-target uses labels of the target here.
"""

import pathlib
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from dann_jax import evaluation
from dann_jax.alignment import linear_svm
from dann_jax.alignment.linear_svm import Examples
from dann_jax.datasets.streamed import blocks
from experiments import domains, record, runtime, studies, trained
from experiments.methods import Method

MOST = 5_000  # examples of each domain, drawn by the key: seconds for 100 features
SHARED = {  # entries of every result
    "solver": "LIBLINEAR, one versus rest, squared hinge, primal",
    "scaling": "centred, divided by the root mean squared norm",
    "C_grid": list(linear_svm.GRID),
    "C_selection": "accuracy on a held-out fifth of the labelled training examples",
}
UNKNOWN = {  # an alignment where all keys diverged
    **dict.fromkeys(("target_accuracy", "source_accuracy", "oracle_accuracy", "seconds")),
    **dict.fromkeys(("components", "oracle_components", "C", "validation_accuracy", "converged")),
    "by_components": {"components": [], "target_accuracy": None},
    "fitted": {},
}
ORACLE = "oracle: the number of components with the best accuracy on the target's test labels"


def check(pair: domains.Pair, method: Method, keys: Sequence[int]) -> None:
    """Raises a ValueError where the examples that a key draws cannot be fitted and chosen by."""
    images = pair.source_train if method.aligns else domains.training_sets(pair, method)[0]
    labels = np.concatenate([label for _, label in blocks(images)])
    for key in keys:
        drawn = labels[_order(images, key)]
        for halves in (False, True) if method.aligns else (False,):
            try:
                linear_svm.check_parts(drawn, halves=halves)
            except ValueError as error:
                without = "leave it out of --methods" if method.aligns else "pass --no-svm"
                raise ValueError(f"{method.name}, key {key}: {error}, or {without}") from error


def svm(study: studies.Study, pair: domains.Pair, key: int, folder: pathlib.Path) -> dict[str, Any]:
    """Returns accuracies of a linear SVM on the last hidden layer; the key draws its examples."""
    started = time.perf_counter()
    state = trained.restored(study, key, folder)
    labelled, _ = domains.training_sets(pair, study.method)
    # The preprocessing of "source" is that of the labelled images, whichever they are.
    examples = _features(study, state, "source", _drawn(labelled, key))
    c, validation = linear_svm.choose(examples)
    head = linear_svm.fit(examples, c)
    accuracies = {
        f"{name}_accuracy": linear_svm.accuracy(head, _features(study, state, name))
        for name in study.tests
    }
    return {
        **accuracies,
        "C": c,
        "validation_accuracy": validation,
        "converged": linear_svm.converged(head),
        **_about(study, examples, started),
    }


def svm_entries(every: Sequence[dict[str, Any] | None]) -> dict[str, Any]:
    """Returns the entries of a result file for the ``svm`` of each key, None if it diverged."""
    first = next(filter(None, every))
    columns = _columns(every, first)
    names = ("C", "validation_accuracy", "source_accuracy", "converged")
    return {
        **record.summary("svm_", "svm_accuracy", columns["target_accuracy"]),
        "svm": _shared(first) | {name: columns[name] for name in names},
    }


def align(
    study: studies.Study, pair: domains.Pair, method: Method, key: int, folder: pathlib.Path
) -> dict[str, Any]:
    """Returns accuracies of a closed form on the features of a training of ``study``."""
    started = time.perf_counter()
    state = trained.restored(study, key, folder)
    source = _features(study, state, "source", _drawn(pair.source_train, key))
    target = _features(study, state, "target", _drawn(pair.target_train, key))
    tests = {f"{name}_test": _features(study, state, name) for name in study.tests}
    accuracies = linear_svm.aligned(method.fit, source, target.x, **tests)
    return accuracies | _about(study, source, started)


def aligned_entries(method: Method, every: Sequence[dict[str, Any] | None]) -> dict[str, Any]:
    """Returns the entries of a result file for the ``align`` of each key, None if it diverged."""
    first = next(filter(None, every), UNKNOWN)
    columns = _columns(every, first)
    by_components = _columns(columns["by_components"], first["by_components"])
    if len({tuple(each["components"]) for each in columns["by_components"] if each}) > 1:
        by_components = {
            "components": [],
            "target_accuracy": [each and [] for each in columns["by_components"]],
        }
    else:
        by_components |= {"components": first["by_components"]["components"]}
    fitted = _columns(columns["fitted"], first["fitted"])
    names = ("validation_accuracy", "converged")
    return {
        **record.summary("", "target_accuracy", columns["target_accuracy"]),
        "source_accuracy": columns["source_accuracy"],
        "components": columns["components"],
        "selection": method.selection,
        **record.summary("oracle_", "oracle_accuracy", columns["oracle_accuracy"]),
        "oracle_components": columns["oracle_components"],
        "oracle_selection": ORACLE,
        "by_components": by_components,
        "svm": _shared(first)
        | {"C": columns["C"], **fitted, **{name: columns[name] for name in names}},
        "wall_seconds": round(sum(seconds or 0.0 for seconds in columns["seconds"]), 1),
    }


def _drawn(images, key):
    """Returns at most ``MOST`` of the images, in an order that the key decides."""
    return domains.chosen(images, _order(images, key))


def _order(images, key):
    return np.random.default_rng(key).permutation(domains.size(images))[:MOST]


def _features(study, state, name, images=None):
    """Returns features of images of a domain, by default of those to test on."""
    layer = evaluation.last_hidden_layer(study.model)
    x, y = study.outputs(evaluation.features, state, name, images, layer=layer)
    if not np.isfinite(x).all():
        raise ValueError(
            f"{study.method.name}: features of the {name} are not finite, nothing can be learned "
            "from them: lower mu0 or the scale of the inputs, and train again with --overwrite"
        )
    return Examples(x, y)


def _about(study, examples, started):
    versions = runtime.versions()
    return {
        "layer": evaluation.last_hidden_layer(study.model),
        "features": examples.x.shape[1],
        "examples": len(examples.y),
        "versions": {name: versions[name] for name in ("dann_jax", "scikit-learn")},
        "seconds": round(time.perf_counter() - started, 1),
    }


def _shared(first):
    """Returns what the SVMs of all keys have in common."""
    names = {"layer", "features", "examples", "versions"} & first.keys()
    return SHARED | {name: first[name] for name in sorted(names)}


def _columns(rows, first):
    """Returns rows as columns by the names of the first of them; a row may be None."""
    return {name: [row and row[name] for row in rows] for name in first}
