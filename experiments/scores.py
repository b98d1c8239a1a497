"""What the rules of ``--select`` say of a network, without target labels."""

import inspect
from typing import Any

import jax
import numpy as np

from dann_jax import evaluation, selection
from dann_jax.datasets.streamed import blocks, chosen, size
from experiments.studies import Study

__all__ = ["check", "measured"]

MOST = 500  # examples of each domain, the same for all keys and settings
SEED = 0  # draws them, and is the key of rules that draw


def check(study: Study) -> None:
    """Raises a ValueError where a rule cannot score the study: there are too few examples, say."""
    sets = _sets(study)
    if not sets:
        return
    labels = np.concatenate([label for _, label in blocks(sets["source"])])
    draw, classes = np.random.default_rng(SEED), len(study.pair.class_names)
    sizes = len(labels), size(sets["target"])
    features, logits = ([draw.normal(size=(n, width)) for n in sizes] for width in (2, classes))
    outputs = selection.Outputs(features[0], logits[0], labels, features[1], logits[1])
    for name in study.config.select:
        try:
            selection.score(selection.RULES[name], outputs, key=jax.random.key(SEED))
        except ValueError as error:
            raise ValueError(f"--select {name}: {error}") from error


def measured(study: Study, state: Any) -> dict[str, dict[str, float]]:
    """Returns the scores of a state by rule as an entry of its evaluation; none without rules.

    Source examples are test images, target examples are training images without their labels.
    Features are the inputs of G_y's last layer. A score is NaN where an output is not finite.
    """
    scored: dict[str, float] = {}
    outputs = _outputs(study, state) if study.config.select else None
    for name in study.config.select:
        rule = selection.RULES[name]
        taken = inspect.signature(rule).parameters
        known = all(np.isfinite(x).all() for n, x in outputs._asdict().items() if n in taken)
        key = jax.random.key(SEED)
        scored[name] = selection.score(rule, outputs, key=key) if known else np.nan
    return {"scores": scored} if scored else {}


def _outputs(study, state):
    """Returns what the rules take of the examples that are drawn."""
    layer, values = evaluation.last_hidden_layer(study.model), {}
    for name, images in _sets(study).items():
        x, labels = study.outputs(evaluation.features, state, name, images, layer=layer)
        logits, _ = study.outputs(evaluation.predict, state, name, images)
        values |= {f"{name}_features": x, f"{name}_logits": logits, f"{name}_labels": labels}
    del values["target_labels"]
    return selection.Outputs(**values)


def _sets(study):
    """Returns the images that are scored, by the domain that they are preprocessed as."""
    if not study.config.select:
        return {}
    sets = {"source": study.pair.source_test, "target": study.pair.target_train}
    draw = np.random.default_rng(SEED)
    orders = {name: draw.permutation(size(images)) for name, images in sets.items()}
    return {name: chosen(sets[name], order[:MOST]) for name, order in orders.items()}
