"""Distances between the domains at the evaluations of a training: run --divergence."""

import math
from typing import Any

import jax
import numpy as np

from dann_jax import divergence, evaluation
from experiments import domains, studies

__all__ = ["MOST", "check_examples", "distances"]

MOST = 2_000  # test images of each domain: the PAD's standard deviation is .05 or less


def distances(study: studies.Study, state: Any, number: int) -> dict[str, float]:
    """Returns the proxy A-distance of features and, where G_d is trained, Eq. (13).

    Features are what G_y's last layer takes: there G_y is linear, as the SVMs of the distance are.
    Both numbers are of the same test images of each domain, drawn once for a training; NaN where an
    output is not finite.

    Args:
      study: The method and the pair.
      state: One key's, as ``Study.evaluated`` returns it.
      number: Of the key; it draws the images and the halves of the proxy A-distance.
    """
    key = jax.random.fold_in(jax.random.key(number), 2)  # 0 and 1 are those of the training
    of_halves, *of_images = jax.random.split(key, 3)
    images = {}
    for name, draw in zip(("source", "target"), of_images, strict=True):
        test = study.tests[name][0]
        order = divergence.generator(draw).permutation(domains.size(test))
        images[name] = domains.chosen(test, order[:MOST])

    def outputs(layer):
        options = {"layer": layer}
        every = (study.outputs(evaluation.features, state, n, images[n], **options) for n in images)
        return [output for output, _ in every]

    measured = {"proxy_a_distance": math.nan}
    if _finite(features := outputs(evaluation.last_hidden_layer(study.model))):
        measured["proxy_a_distance"] = divergence.proxy_a_distance(*features, key=of_halves)
    if study.method.adversarial:
        measured["discriminator_bound"] = math.nan
        if _finite(logits := outputs("d")):
            of_domain = np.repeat([0, 1], [len(z) for z in logits])
            alpha = divergence.alpha(np.concatenate(logits), of_domain)
            measured["discriminator_bound"] = float(divergence.discriminator_bound(alpha))
    return measured


def _finite(arrays):
    return all(np.isfinite(array).all() for array in arrays)


def check_examples(pair: domains.Pair) -> None:
    """Raises a ValueError where a domain has too few test images for a proxy A-distance."""
    counts = {"source": domains.size(pair.source_test), "target": domains.size(pair.target_test)}
    if min(counts.values()) < 2:
        found = " and ".join(f"{count} of the {name}" for name, count in counts.items())
        raise ValueError(
            f"--divergence: expected at least 2 test images of each domain, got {found}: leave it "
            "out, or choose larger test sets"
        )
