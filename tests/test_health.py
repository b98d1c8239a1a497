"""A healthy training shows no symptom; each way to fail is named."""

import math
import re

import numpy as np
import pytest

from dann_jax.health import first_not_finite, part_not_finite, symptoms
from dann_jax.training import TrainState

HEALTHY = {
    "label_loss": 0.2,
    "label_accuracy": 0.95,
    "domain_loss": 0.54,
    "domain_accuracy": 0.7,
    "feature_norm": 12.0,
    "lam": 0.9,
}
SOURCE_ONLY = {"domain_loss": math.nan, "domain_accuracy": math.nan}
ABSENT = dict.fromkeys(SOURCE_ONLY)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"domain_loss": 0.693, "domain_accuracy": 0.5},  # G_d at chance: the aim
        {"domain_loss": 0.02, "domain_accuracy": 1.0, "lam": 0.1},  # lambda is not yet at work
        {"label_loss": 2.3, "lam": 0.0},  # the first steps are at chance
        SOURCE_ONLY,
        ABSENT,
    ],
)
def test_a_healthy_training_has_no_symptoms(change):
    assert symptoms(HEALTHY | change, classes=10) == []


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"label_loss": math.nan}, "diverged"),
        ({"label_loss": math.inf} | SOURCE_ONLY, "diverged"),
        ({"feature_norm": math.inf}, "diverged"),
        ({"domain_loss": math.inf}, "diverged"),
        ({"domain_loss": math.nan}, "diverged"),
        ({"label_loss": 2.30}, "tell nothing of the labels: L_y 2.30 .* chance value 2.30"),
        ({"label_loss": 3.21}, "L_y 3.21 is above its chance value 2.30"),
        ({"label_loss": 2.30} | SOURCE_ONLY, "the features tell nothing"),
        ({"label_loss": 2.30} | ABSENT, "the features tell nothing"),
        ({"domain_loss": 0.02}, "the domain classifier wins: L_d 0.020, 3% of its chance"),
    ],
)
def test_each_failure_has_its_sentence(change, sentence):
    sentences = symptoms(HEALTHY | change, classes=10)
    assert len(sentences) == 1
    assert re.search(sentence, sentences[0])


def test_the_chance_values_are_those_of_the_task():
    # ln 43 = 3.76 and 2 ln 2 = 1.386: neither 2.3 nor .1 is a sign there.
    assert symptoms(HEALTHY | {"label_loss": 2.3}, classes=43) == []
    low = HEALTHY | {"domain_loss": 0.1}
    assert symptoms(low, classes=10) == []
    assert len(symptoms(low, classes=10, normalization="sum_of_means")) == 1


def test_two_failures_are_both_named():
    both = HEALTHY | {"label_loss": 2.3, "domain_loss": 0.01}
    assert len(symptoms(both, classes=10)) == 2


def test_the_first_step_that_is_not_finite_is_blamed_on_a_loss_first():
    nan, inf = math.nan, math.inf
    metrics = {
        "label_loss": np.array([0.7, 0.8, inf, nan]),
        "domain_loss": np.array([0.7, 0.7, nan, nan]),
        "feature_norm": np.array([1.0, 2.0, inf, nan]),
    }
    assert first_not_finite(metrics) == (2, "label_loss")
    metrics["label_accuracy"] = np.array([0.5, nan, nan, nan])
    assert first_not_finite(metrics) == (1, "label_logits")
    assert first_not_finite({"lam": np.array([nan])}) == (0, "lambda")
    assert first_not_finite({name: values[:1] for name, values in metrics.items()}) is None


def test_a_state_that_is_not_finite_is_named_by_its_part():
    whole = TrainState(
        step=np.int32(2),
        theta={"f": np.ones(2, np.float32)},
        batch_stats={"f": np.ones(2, np.float32)},
        opt_state=(np.int32(2), {"f": np.ones(2, np.float32)}),
    )
    assert part_not_finite(whole) is None
    lost = {"f": np.array([1, math.nan], np.float32)}
    assert part_not_finite(whole.replace(theta=lost)) == "parameters"
    assert part_not_finite(whole.replace(batch_stats=lost)) == "batch_statistics"
    assert part_not_finite(whole.replace(opt_state=(np.int32(2), lost))) == "momentum"
