"""``DannClassifier``: what scikit-learn asks of a classifier, and that it is ``fit``."""

import pickle

import jax
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import get_scorer
from sklearn.model_selection import GridSearchCV, cross_val_score

from dann_jax import DannClassifier, DannModel, classifier, fit, predict
from dann_jax.networks import FullyConnected

pytestmark = pytest.mark.usefixtures("quick_compilation")

DRAW = np.random.default_rng(0)
NUMBERS = DRAW.integers(2, size=80)
NAMES = np.array(["cat", "dog"])[NUMBERS]
X = (2.0 * NUMBERS - 1)[:, None] * [1, 100, 0] + DRAW.normal(size=(80, 3)) * [0.3, 30, 0]
T = X[40:] + [1, 0, 0]
OPTIONS = {"steps": 20, "batch_size": 16, "lam": 0.5}


@pytest.fixture(scope="module")
def fitted():
    return DannClassifier(**OPTIONS).fit(X[:40], NAMES[:40], T)


def test_it_finds_the_names_of_classes(fitted):
    assert fitted.classes_.tolist() == ["cat", "dog"]
    assert fitted.score(T, NAMES[40:]) > 0.9
    p = fitted.predict_proba(T)
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-12)
    assert (fitted.classes_[p.argmax(1)] == fitted.predict(T)).all()
    assert fitted.n_features_in_ == 3


def test_it_is_fit_of_standardized_columns(fitted):
    joint = np.concatenate([X[:40], T])
    scale = np.where(joint.std(0), joint.std(0), 1)
    source, target = (((x - joint.mean(0)) / scale).astype(np.float32) for x in (X[:40], T))
    seed = np.random.RandomState(0).randint(np.iinfo(np.int32).max)
    same = {"batch": (16, 16), "steps": 20, "key": jax.random.key(seed)}
    by_hand = fit(fitted.model_, (source, NUMBERS[:40]), target, lam=0.5, **same)
    logits = predict(fitted.model_, by_hand.state, target)
    difference = logits[:, 1] - logits[:, 0]  # [n] of two classes, as scorers take it
    np.testing.assert_allclose(fitted.decision_function(T), difference, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(fitted._logits(T), logits, rtol=1e-4, atol=1e-5)
    assert get_scorer("roc_auc")(fitted, T, NAMES[40:]) > 0.9


def test_it_is_cloned_pickled_and_searched(fitted):
    again = clone(fitted).fit(X[:40], NAMES[:40], T)
    np.testing.assert_array_equal(again.predict_proba(T), fitted.predict_proba(T))
    loaded = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(loaded.predict_proba(T), fitted.predict_proba(T))
    assert pickle.loads(pickle.dumps(clone(fitted))).get_params() == fitted.get_params()
    search = GridSearchCV(clone(fitted), {"lam": [0.5]}, cv=2, error_score="raise")
    assert search.fit(X[:40], NAMES[:40], X_target=lambda: T).score(T, NAMES[40:]) > 0.9


def test_a_target_as_long_as_the_source_is_not_split_with_it(monkeypatch):
    seen = []

    def fit_of(model, source, target, **options):
        seen.append((len(source[0]), len(target)))
        raise ValueError

    monkeypatch.setattr(classifier.fitting, "fit", fit_of)
    given = {"params": {"X_target": lambda: T}, "cv": 2, "error_score": 0.0}
    with pytest.raises(ValueError, match="All the 2 fits failed"):
        cross_val_score(DannClassifier(**OPTIONS), X[:40], NAMES[:40], **given)
    assert seen == [(20, 40), (20, 40)]


def flat(classes):
    parts = (FullyConnected((), n) for n in (4, classes, 1))
    names = "feature_extractor", "label_predictor", "domain_classifier"
    return DannModel(**dict(zip(names, parts, strict=True)))


def test_images_have_a_network_of_their_own_or_ones_own():
    images = DRAW.integers(256, size=(12, 4, 4, 1)).astype(np.uint8)
    labels = np.arange(12) % 3 - 1
    for own in ({}, {"model": flat, "preprocess": lambda x: x.reshape(len(x), -1) / 255}):
        classifier = DannClassifier(steps=1, **own).fit(images, labels, images[:8])
        assert set(classifier.predict(images)) <= {-1, 0, 1}
        assert classifier.fit_.history["step"].tolist() == [1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((X, NAMES), r"expected X_target, examples of the target: fit\(X, y, X_target\)"),
        ((X, np.full(80, "cat"), T), "expected at least 2 classes in y, got one: cat"),
        ((X, NUMBERS + 0.5, T), "Unknown label type"),
        ((X, NAMES, T[:, :2]), "X has 2 features, but DannClassifier is expecting 3"),
        ((X, NAMES, np.full_like(T, np.nan)), "Input X contains NaN"),
        ((X[:, None], NAMES, T[:, None]), r"a table \[n, D\] or images"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        DannClassifier().fit(*arguments)


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (flat(classes=2), TypeError, "model must be a function of the number .* DannModel"),
        ("mnist", TypeError, "model must be a function of the number .* got str"),
        (lambda classes: flat(classes=7), ValueError, "of the 2 classes .* with, got one of 7"),
    ],
)
def test_a_model_that_does_not_fit_is_refused(model, error, message):
    with pytest.raises(error, match=message):
        DannClassifier(model).fit(X, NAMES, T)


def test_one_that_was_not_fit_says_so():
    with pytest.raises(NotFittedError):
        DannClassifier().predict(X)
