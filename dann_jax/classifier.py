"""``DannClassifier``: ``fit`` and ``predict`` with scikit-learn's manners.

It takes scikit-learn, so it is imported when ``dann_jax.DannClassifier`` is used first.
"""

import contextlib
from collections.abc import Callable
from typing import Any, Self

import jax
import numpy as np
import optax
from scipy import special
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from dann_jax import checks, evaluation, fitting, networks, training
from dann_jax.objective import TARGET

__all__ = ["DannClassifier"]


class DannClassifier(ClassifierMixin, BaseEstimator):
    """A classifier trained on a labelled source and an unlabelled target, to predict the target.

    X is a table ``[n, D]``, images ``[n, height, width, channel]``, or any array that a model of
    your own takes. Labels are of any type that scikit-learn takes. In a search or a
    cross-validation the target goes along as ``params={"X_target": lambda: X_target}``: an array as
    long as X would be split with it. A label -1 is a class like any other here.

    Args:
      model: Function that returns the model of so many ``classes``, such as ``dann_jax.mnist``.
        None for two hidden layers of 64 units (a table), or for the layers of ``mnist`` with
        padding (images).
      steps: Number of updates.
      batch_size: Examples of each domain a step; a smaller domain is a batch as a whole.
      optimizer: As in ``fitting.fit``.
      lam: As in ``fitting.fit``.
      objective: As in ``fitting.fit``.
      preprocess: Function of a batch of examples. None to standardize along the last axis (the
        columns of a table, the channels of images) by the mean and the standard deviation of both
        domains together.
      random_state: Seed, or generator, of the key.
      report: As in ``fitting.fit``.

    Attributes:
      classes_: Labels, ``[classes]``.
      n_features_in_: Size of the second axis of X.
      mean_, scale_: What X is standardized by, along its last axis.
      fit_: What ``fitting.fit`` returned.
    """

    def __init__(
        self,
        model: Callable[..., networks.DannModel] | None = None,
        *,
        steps: int = 1000,
        batch_size: int = 64,
        optimizer: Any = None,
        lam: Any = None,
        objective: Any = None,
        preprocess: Callable | None = None,
        random_state: Any = 0,
        report: Any = None,
    ):
        self.model = model
        self.steps = steps
        self.batch_size = batch_size
        self.optimizer = optimizer
        self.lam = lam
        self.objective = objective
        self.preprocess = preprocess
        self.random_state = random_state
        self.report = report

    def fit(self, X: Any, y: Any, X_target: Any = None) -> Self:
        """Trains from the start.

        Args:
          X: ``[n, ...]`` of the source.
          y: ``[n]`` labels of the source.
          X_target: ``[m, ...]`` of the target, or a function that returns them.

        Returns:
          The classifier.

        Raises:
          ValueError: As ``fitting.fit``; there is no target, or only one class, or the model has
            another number of them.
          Diverged: The training is not finite.
        """
        if X_target is None:
            raise ValueError("expected X_target, examples of the target: fit(X, y, X_target)")
        X_target = X_target() if callable(X_target) else X_target
        X, y = validate_data(self, X, y, allow_nd=True, ensure_min_samples=2)
        X_target = self._checked(X_target)
        check_classification_targets(y)
        self.classes_, numbers = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"expected at least 2 classes in y, got one: {self.classes_[0]}")
        checks.check_count(self.batch_size, "batch_size")
        self.input_shape_ = X.shape[1:]
        self.model_ = self._model()
        self.mean_, self.scale_ = _statistics(X, X_target)
        self._check_classes(X[:2])
        seed = check_random_state(self.random_state).randint(np.iinfo(np.int32).max)
        self.fit_ = fitting.fit(
            self.model_,
            (self._seen(X), numbers),
            self._seen(X_target),
            steps=self.steps,
            key=jax.random.key(seed),
            batch=(min(self.batch_size, len(X)), min(self.batch_size, len(X_target))),
            optimizer=self.optimizer,
            lam=self.lam,
            objective=self.objective,
            preprocess=self.preprocess,
            report=self.report,
        )
        return self

    def _check_classes(self, X):
        """Raises where the model has another number of classes than the labels."""

        def logits(x):
            x = self.preprocess(x) if self.preprocess else x
            state = training.init_state(self.model_, optax.identity(), jax.random.key(0), x)
            taken = state.theta, state.batch_stats, x
            return evaluation.label_logits(self.model_, *taken, domain=TARGET)

        seen = self._seen(X)
        expected = got = len(self.classes_)
        with contextlib.suppress(ValueError, TypeError):  # other faults, which fit explains
            got = jax.eval_shape(logits, seen).shape[-1]
        if got != expected:
            raise ValueError(
                f"expected model to return a DannModel of the {expected} classes that it is called "
                f"with, got one of {got}"
            )

    def _checked(self, X):
        return validate_data(self, X, allow_nd=True, reset=False)

    def _seen(self, X):
        """Returns examples as the network or a preprocessing of one's own takes them."""
        return X if self.preprocess else ((X - self.mean_) / self.scale_).astype(np.float32)

    def _model(self):
        make = _default_model(self.input_shape_) if self.model is None else self.model
        if isinstance(make, networks.DannModel) or not callable(make):
            raise TypeError(
                "model must be a function of the number of classes, such as dann_jax.mnist, got "
                f"{type(make).__name__}: pass lambda classes: DannModel(...), say"
            )
        return make(classes=len(self.classes_))

    def __getstate__(self):
        """Returns what is pickled: all but the model, whose initializers may be no names."""
        return {name: each for name, each in super().__getstate__().items() if name != "model_"}

    def __setstate__(self, state):
        """Makes the model again."""
        super().__setstate__(state)
        if "classes_" in vars(self):
            self.model_ = self._model()

    def decision_function(self, X: Any) -> np.ndarray:
        """Returns label logits of target examples, ``[n, classes]``.

        Of two classes it returns the second's minus the first's, ``[n]``, as scikit-learn does.

        Args:
          X: ``[n, ...]``.

        Raises:
          ValueError: A logit is not finite.
        """
        logits = self._logits(X)
        return logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits

    def _logits(self, X):
        check_is_fitted(self)
        X = self._seen(self._checked(X))
        logits = evaluation.predict(self.model_, self.fit_.state, X, preprocess=self.preprocess)
        checks.check_finite(logits, "logits")
        return logits

    def predict(self, X: Any) -> np.ndarray:
        """Returns the classes of target examples, ``[n]``.

        Args:
          X: ``[n, ...]``.
        """
        logits = self._logits(X)  # says so where it was not fit, before there are classes_
        return self.classes_[logits.argmax(1)]

    def predict_proba(self, X: Any) -> np.ndarray:
        """Returns the probabilities of the classes, ``[n, classes]`` float64, sums of 1.

        Args:
          X: ``[n, ...]`` of the target.
        """
        return special.softmax(self._logits(X).astype(np.float64), axis=1)


def _default_model(shape):
    """Returns a function of ``classes`` for examples of a shape."""
    if len(shape) == 1:
        return _two_layers
    if len(shape) == 3:
        return _two_convolutions
    raise ValueError(
        f"expected a table [n, D] or images [n, height, width, channel], got [n, "
        f"{', '.join(map(str, shape))}]: pass "
        "model=, a function of classes that returns a DannModel for such examples"
    )


def _two_layers(classes, units=64):
    return networks.DannModel(
        feature_extractor=networks.FullyConnected((units,), units),
        label_predictor=networks.FullyConnected((), classes),
        domain_classifier=networks.FullyConnected((units,), 1),
    )


def _two_convolutions(classes):
    layers = networks.Convolution(32, 5, pool=2), networks.Convolution(48, 5, pool=2)
    return networks.DannModel(
        feature_extractor=networks.ConvolutionalFeatures(layers, padding="SAME"),
        label_predictor=networks.FullyConnected((100, 100), classes),
        domain_classifier=networks.FullyConnected((100,), 1),
    )


def _statistics(*domains):
    """Returns mean and standard deviation along the last axis, over all domains together."""
    rows = np.concatenate([x.reshape(-1, x.shape[-1]) for x in domains]).astype(np.float64)
    mean, scale = rows.mean(0), rows.std(0)
    return mean, np.where(scale > 1e-12 * np.abs(mean), scale, 1.0)  # 1 for what is constant
