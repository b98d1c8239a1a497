"""Choosing a step or settings without target labels: rules that score a trained network.

A larger score is better for every rule. Scores of one rule can be compared between steps and
settings on the same examples, those of two rules cannot. Each rule is a pure function of arrays,
in float64 on the host, whose parameters have the names of ``Outputs``; ``score`` passes those that
a rule takes. ``reverse_validation`` trains, so it takes a learner in place of outputs.

A rule may prefer a bad network; docs/selection.md says when.
"""

import inspect
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import chex
import numpy as np
from scipy import special

from dann_jax import checks, extras
from dann_jax.divergence import domain_features, generator, proxy_a_distance

__all__ = [
    "Outputs",
    "RULES",
    "batch_nuclear_norm",
    "choose",
    "cross_entropy",
    "deep_embedded_validation",
    "domain_confusion",
    "entropy",
    "importance_weighted_validation",
    "importance_weights",
    "information_maximization",
    "ranges",
    "reverse_validation",
    "score",
    "soft_neighborhood_density",
    "zero_one",
]

FOLDS, COSTS = 3, tuple(10.0**k for k in range(-4, 1))  # of importance_weights
LARGEST = 300  # logarithm of a weight whose square is still a number
ROWS = 1024  # of a matrix of similarities that are in memory at a time

Losses = Callable[[np.ndarray, np.ndarray], np.ndarray]  # logits [n, K], labels [n] -> [n]
Ratio = Callable[..., np.ndarray]  # source features, target features, key= -> weights [n]
Predict = Callable[[Any], chex.Array]  # examples [n, ...] -> classes [n]
Learn = Callable[[Any, Any, Any], Predict]  # source x, labels of its own, target x


class Outputs(NamedTuple):
    """What a network says of examples; a rule takes some of these, by name."""

    source_features: Any  # [n, ...], of source examples that it was not trained on
    source_logits: Any  # [n, classes]
    source_labels: Any  # [n], -1 where unknown
    target_features: Any  # [n', ...]
    target_logits: Any  # [n', classes]


def entropy(target_logits: chex.Array) -> float:
    """Returns minus the mean entropy of the target's predictions: confident is better.

    ``- (1/n) Σ_i H(p_i)`` with ``p_i = softmax(z_i)`` and ``H(p) = - Σ_k p_k log p_k``.

    >>> round(entropy([[0.0, 0.0], [50.0, -50.0]]), 4)  # -(ln 2 + 0) / 2
    -0.3466

    Args:
      target_logits: ``[n, classes]``.

    Returns:
      Nats in [-ln(classes), 0].

    Raises:
      ValueError: The logits are no matrix of examples and at least two classes, or not finite.

    Source: Morerio, Cavazza and Murino (ICLR 2018), who choose by it; Grandvalet and Bengio (NIPS
    2004), who train with it.
    """
    return -float(special.entr(_probabilities(target_logits)).sum(1).mean())


def information_maximization(target_logits: chex.Array) -> float:
    """Returns the mutual information of examples and predictions: confident, of all classes.

    ``H((1/n) Σ_i p_i) - (1/n) Σ_i H(p_i)`` with ``p_i = softmax(z_i)``.

    >>> confident = [[50.0, -50.0], [-50.0, 50.0]]
    >>> round(information_maximization(confident), 4)  # ln 2 - 0
    0.6931
    >>> round(information_maximization([[50.0, -50.0], [50.0, -50.0]]), 4)  # all of one class
    0.0

    Args:
      target_logits: ``[n, classes]``.

    Returns:
      Nats in [0, ln(classes)].

    Raises:
      ValueError: As for ``entropy``.

    Source: Bridle, Heading and MacKay (NIPS 1991); Shi and Sha (ICML 2012).
    """
    p = _probabilities(target_logits)
    of_each = special.entr(p).sum(1).mean()
    return max(0.0, float(special.entr(p.mean(0)).sum() - of_each))  # not -1e-17


def batch_nuclear_norm(target_logits: chex.Array) -> float:
    """Returns the nuclear norm of the matrix of predictions, over n: confident and diverse.

    ``(1/n) ||P||_*``, the sum of the singular values of ``P = [softmax(z_1), ..., softmax(z_n)]``.
    It grows with the Frobenius norm (confidence) and with the rank (number of classes predicted).

    >>> round(batch_nuclear_norm([[50.0, -50.0], [-50.0, 50.0]]), 4)  # P = I: (1 + 1) / 2
    1.0

    Args:
      target_logits: ``[n, classes]``. Values for another n cannot be compared: a perfect score is
        √(classes / n) for balanced classes.

    Returns:
      A number in (0, √(min(n, classes) / n)].

    Raises:
      ValueError: As for ``entropy``.

    Source: Cui et al. (CVPR 2020), who train with it; the rule takes all examples as one batch.
    """
    p = _probabilities(target_logits)
    return float(np.linalg.svd(p, compute_uv=False).sum() / len(p))


def soft_neighborhood_density(target_logits: chex.Array, *, temperature: float = 0.05) -> float:
    """Returns how many neighbours the target's predictions have, as a mean entropy.

    ``(1/n) Σ_i H(q_i)`` with ``q_ij = exp(s_ij / τ) / Σ_{k≠i} exp(s_ik / τ)`` for j ≠ i, where s_ij
    is the cosine of p_i and p_j, ``p_i = softmax(z_i)``.

    >>> round(soft_neighborhood_density([[9.0, 0.0]] * 5), 4)  # 4 neighbours of each: ln 4
    1.3863

    Args:
      target_logits: ``[n, classes]``, n of at least 2. Values for another n cannot be compared.
      temperature: τ; the default is the authors'.

    Returns:
      Nats in [0, ln(n - 1)].

    Raises:
      ValueError: As for ``entropy``; there is one example; or the temperature is not positive.

    Source: Saito et al. (ICCV 2021).
    """
    p = _probabilities(target_logits)
    if len(p) < 2:
        raise ValueError("expected at least 2 examples, which may be neighbours, got 1")
    if not 0 < temperature < np.inf:
        raise ValueError(f"expected a positive temperature, got {temperature}")
    unit = p / np.linalg.norm(p, axis=1, keepdims=True)
    total = 0.0
    for start in range(0, len(unit), ROWS):
        rows = unit[start : start + ROWS]
        similarities = rows @ unit.T / temperature
        similarities[np.arange(len(rows)), start + np.arange(len(rows))] = -np.inf
        total += special.entr(special.softmax(similarities, axis=1)).sum()
    return float(total / len(unit))


def zero_one(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns a loss ``[n]`` of 1 where the largest of the logits is not the label's, or 0.

    Args:
      logits: ``[n, classes]``.
      labels: ``[n]`` int, all known.
    """
    logits, labels = _labelled(logits, labels)
    return (np.argmax(logits, 1) != labels).astype(np.float64)


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns the losses ``- log softmax(z)[y]``, ``[n]`` in nats.

    Args:
      logits: ``[n, classes]``.
      labels: ``[n]`` int, all known.
    """
    logits, labels = _labelled(logits, labels)
    with np.errstate(over="ignore"):
        return -special.log_softmax(logits, axis=1)[np.arange(len(labels)), labels]


def importance_weights(
    source_features: chex.Array, target_features: chex.Array, *, key: chex.PRNGKey
) -> np.ndarray:
    """Returns density ratios ``w(f) = p_T(f) / p_S(f)`` of source examples by a domain classifier.

    ``w(f) = (n / n') P[target | f] / P[source | f]`` with logistic regressions on standardized
    features. Each tells the ratio of a third of the examples and is fitted to the others, so no
    example's ratio comes from a fit to itself. Of five regularizations the one with the lowest loss
    on examples left out is taken. It takes scikit-learn.

    Args:
      source_features: ``[n, ...]``, flattened.
      target_features: ``[n', ...]``, as many features.
      key: Draws the thirds.

    Returns:
      ``[n]`` float64, positive, of mean about 1 where the target has no region of its own.

    Raises:
      ValueError: The features do not fit each other, are not finite, or there are fewer than 3
        examples of a domain; or a ratio is above exp(300).

    Source: You et al. (ICML 2019), who train a network in place of logistic regressions.
    """
    features = domain_features(source_features, target_features)
    n, n_target = map(len, features)
    if min(n, n_target) < FOLDS:
        raise ValueError(
            f"expected at least {FOLDS} examples of each domain, got {n} and {n_target}"
        )
    draw = generator(key)
    folds = [draw.permutation(len(x)) % FOLDS for x in features]
    z = _left_out_logits(np.concatenate(features), np.arange(n + n_target) >= n, np.hstack(folds))
    z = z[:n]
    if z.max() > LARGEST:
        raise ValueError(
            f"the density ratio of a source example is exp({z.max():.0f}), expected at most "
            f"exp({LARGEST}): leave outliers out, or scale the features"
        )
    return np.exp(np.maximum(z, -LARGEST)) * (n / n_target)


def importance_weighted_validation(
    source_features: chex.Array,
    source_logits: chex.Array,
    source_labels: chex.Array,
    target_features: chex.Array,
    *,
    key: chex.PRNGKey,
    losses: Losses = zero_one,
    weights: Ratio = importance_weights,
) -> float:
    """Returns minus the target's risk as labelled source examples tell it, by their weights.

    ``- Σ_i w(f_i) ℓ(z_i, y_i) / Σ_i w(f_i)``, under covariate shift a consistent estimate if w is
    the ratio of densities. The paper divides by n, which is the same in expectation. Estimated
    ratios do not keep to it: they are about 0 for all of the source where features separate the
    domains, and with n the worst features would have the best score. The variance grows without
    bound the less the domains overlap.

    Args:
      source_features: ``[n, ...]`` of source examples that the network was not trained on.
      source_logits: ``[n, classes]``.
      source_labels: ``[n]``; examples with -1 have no loss and are left out.
      target_features: ``[n', ...]``.
      key: For ``weights``.
      losses: ℓ, from logits and labels to ``[n]``; by default the risk is the share of errors.
      weights: w, from features of source and target and ``key=`` to ``[n]``.

    Returns:
      0 at best; -1 is that all is wrong.

    Raises:
      ValueError: The shapes do not fit each other, a number is not finite, a label is no class, or
        none is known; or as ``weights``.
      TypeError: The labels are not integers.

    Source: Sugiyama, Krauledat and Müller (JMLR 2007).
    """
    features = source_features, target_features
    w, loss = _weighted(features, source_logits, source_labels, key, losses, weights)
    return -float(np.sum(w * loss) / np.sum(w))


def deep_embedded_validation(
    source_features: chex.Array,
    source_logits: chex.Array,
    source_labels: chex.Array,
    target_features: chex.Array,
    *,
    key: chex.PRNGKey,
    losses: Losses = zero_one,
    weights: Ratio = importance_weights,
) -> float:
    """Returns minus the target's risk by weighted source examples, with a control variate.

    ``- [ mean(L) + η mean(w) - η ]`` with ``L_i = w(f_i) ℓ(z_i, y_i)`` and ``η = - Cov(L, w) /
    Var(w)``: the weights' mean is known to be 1, so what it misses by tells of L's error. Where all
    weights are equal, η is 0.

    Args:
      source_features: ``[n, ...]``, of the layer that the domains are aligned in, of source
        examples that the network was not trained on.
      source_logits: ``[n, classes]``.
      source_labels: ``[n]``; examples with -1 have no loss and are left out.
      target_features: ``[n', ...]``.
      key: For ``weights``.
      losses: ℓ, from logits and labels to ``[n]``; by default the risk is the share of errors.
      weights: w, from features of source and target and ``key=`` to ``[n]``.

    Returns:
      About 0 at best. The estimate of the risk may be below 0 or above 1.

    Raises:
      ValueError: As for ``importance_weighted_validation``.
      TypeError: The labels are not integers.

    Source: You et al. (ICML 2019), Algorithm 1.
    """
    features = source_features, target_features
    w, loss = _weighted(features, source_logits, source_labels, key, losses, weights)
    weighted = w * loss
    variance = np.var(w)
    covariance = np.mean((weighted - weighted.mean()) * (w - w.mean()))
    eta = -covariance / variance if np.ptp(w) > 0 and variance > 0 else 0.0
    return -float(weighted.mean() + eta * w.mean() - eta)


def domain_confusion(
    source_features: chex.Array, target_features: chex.Array, *, key: chex.PRNGKey
) -> float:
    """Returns minus the proxy A-distance of the features: domains that look alike are better.

    Args:
      source_features: ``[n, ...]``.
      target_features: ``[n', ...]``.
      key: Draws the halves, see ``divergence.proxy_a_distance``.

    Returns:
      A number in [-2, 0].

    Raises:
      ValueError: The features do not fit each other, are too few, or are not finite.

    Source: Ganin et al. (JMLR 2016), Sec. 5.1.5; Ben-David et al. (NIPS 2006).
    """
    return -proxy_a_distance(source_features, target_features, key=key)


def reverse_validation(
    learn: Learn,
    source_x: chex.Array,
    source_labels: chex.Array,
    target_x: chex.Array,
    *,
    key: chex.PRNGKey,
    held_out: float = 0.1,
    learn_back: Callable[[Predict], Learn] | None = None,
) -> float:
    """Returns the accuracy on the source of a classifier that learnt from the target's predictions.

    ``1 - R_{S_V}(η_r)``, one minus the reverse validation risk. Source and target are split in S',
    S_V and T', T_V. η learns from (S', T'). η_r learns the same way with ``{(x, η(x)) : x ∈ T'}``
    as its source and S' without labels as its target. Its accuracy is measured on S_V. If η finds
    one class in all of T', η_r is that class.

    Args:
      learn: The learner under test with its settings, ``learn(x, y, target_x) -> predict``, and
        ``predict(x)`` gives the classes ``[n]`` of examples. It has its own randomness.
      source_x: ``[n, ...]``, at least two examples.
      source_labels: ``[n]``, classes 0, 1, ...
      target_x: ``[n', ...]``, at least two examples.
      key: Draws S_V and T_V. Compare settings with the same key.
      held_out: Share of each domain in S_V and T_V, in (0, 1); the default is DANN's authors'. They
        stop trainings early on T_V; here it is only left out.
      learn_back: From η, the learner of η_r, for one that starts from η's parameters as the
        authors' do; ``learn`` itself if None.

    Returns:
      An accuracy in [0, 1].

    Raises:
      ValueError: The shapes do not fit each other, a number is not finite, a label or a prediction
        is no class, or a part would be empty.
      TypeError: Labels or predictions are not integers.

    Source: Zhong et al. (ECML 2010); Ganin et al. (JMLR 2016), Sec. 5.1.2.
    """
    x, y, target = np.asarray(source_x), np.asarray(source_labels), np.asarray(target_x)
    if not x.ndim or y.shape != x.shape[:1] or target.shape[1:] != x.shape[1:]:
        raise ValueError(
            "expected source_x [n, ...], source_labels [n] and target_x [n', ...], got "
            f"{list(x.shape)}, {list(y.shape)} and {list(target.shape)}"
        )
    checks.check_finite(x, "source_x")
    checks.check_finite(target, "target_x")
    _check_classes(y, len(y), "source_labels")
    draw = generator(key)
    train, validation = _split(x, held_out, draw, "source_x")
    target_train, _ = _split(target, held_out, draw, "target_x")
    eta = learn(x[train], y[train], target[target_train])
    own = np.asarray(eta(target[target_train]))
    _check_classes(own, len(target_train), "the learner's predictions for the target")
    if len(np.unique(own)) == 1:
        return float(np.mean(y[validation] == own[0]))
    back = learn if learn_back is None else learn_back(eta)
    predicted = np.asarray(back(target[target_train], own, x[train])(x[validation]))
    _check_classes(predicted, len(validation), "the reverse learner's predictions")
    return float(np.mean(predicted == y[validation]))


RULES: dict[str, Callable[..., float]] = {
    rule.__name__: rule
    for rule in (
        entropy,
        information_maximization,
        batch_nuclear_norm,
        soft_neighborhood_density,
        importance_weighted_validation,
        deep_embedded_validation,
        domain_confusion,
    )
}
"""The rules that score a network's outputs, by name."""


def score(rule: Callable[..., float], outputs: Outputs, *, key: chex.PRNGKey) -> float:
    """Returns what a rule says of a network's outputs: it is passed those it has parameters for.

    Args:
      rule: One of ``RULES``, or a function of your own with parameters of the same names.
      outputs: Those that the rule does not take may be None.
      key: For rules that draw; pass the same for all networks that are compared.

    Raises:
      ValueError: As the rule.
    """
    every = {**outputs._asdict(), "key": key}
    taken = inspect.signature(rule).parameters
    return rule(**{name: value for name, value in every.items() if name in taken})


def ranges(classes: float) -> dict[str, tuple[float, float]]:
    """Returns the least and the largest score of each rule of ``RULES`` that has them.

    Args:
      classes: Number of labels; infinity where it is not known.
    """
    most = float(np.log(classes))
    return {
        "entropy": (-most, 0.0),
        "information_maximization": (0.0, most),
        "batch_nuclear_norm": (0.0, 1.0),
        "soft_neighborhood_density": (0.0, np.inf),
        "importance_weighted_validation": (-np.inf, 0.0),
        "domain_confusion": (-2.0, 0.0),
    }


def choose(scores: Sequence[float]) -> int:
    """Returns the position of the largest score, the first of several.

    Args:
      scores: By step or by setting; NaN for one that has none, as after a divergence. Infinity is
        none either: no rule is that sure.

    Raises:
      ValueError: There is no score, or none is finite.
    """
    values = np.asarray(scores, np.float64)
    finite = np.isfinite(values)
    if values.ndim != 1 or not finite.any():
        raise ValueError(f"expected scores [n], one of them a finite number, got {list(scores)}")
    return int(np.argmax(np.where(finite, values, -np.inf)))


def _probabilities(logits):
    """Returns the softmax of logits, checked, in float64."""
    logits = _logits(logits, "target_logits")
    with np.errstate(over="ignore", under="ignore"):  # differences beyond 1.8e308 are -inf
        return special.softmax(logits, axis=1)


def _logits(logits, name):
    shape = np.shape(logits)
    if len(shape) != 2 or not shape[0] or shape[1] < 2:
        raise ValueError(
            f"expected {name} [n, classes] of at least 1 example and 2 classes, got {list(shape)}"
        )
    checks.check_finite(logits, name)
    return np.asarray(logits, np.float64)


def _labelled(logits, labels):
    """Returns logits and labels, checked: finite, and of known classes."""
    logits, labels = _logits(logits, "logits"), np.asarray(labels)
    _check_classes(labels, len(logits), "labels", logits.shape[1])
    return logits, labels


def _weighted(features, logits, labels, key, losses, weights):
    """Returns weights and losses of the source examples whose label is known."""
    logits, labels = _logits(logits, "source_logits"), np.asarray(labels)
    domain_features(*features)
    if labels.shape != (len(logits),) or len(features[0]) != len(logits):
        raise ValueError(
            "expected source_features [n, ...], source_logits [n, classes] and source_labels [n], "
            f"got {list(np.shape(features[0]))}, {list(logits.shape)} and {list(labels.shape)}"
        )
    checks.check_labels(labels, logits.shape[1], name="source_labels")
    known = labels >= 0
    if not known.any():
        raise ValueError("expected source_labels that are known, got -1 for all")
    w = np.asarray(weights(*features, key=key), np.float64)
    if w.shape != labels.shape:
        raise ValueError(f"expected one weight for each of {len(labels)} examples, got {w.shape}")
    checks.check_finite(w, "weights")
    if (w < 0).any() or not w[known].any():
        raise ValueError(
            f"expected weights that are not negative, nor all 0, got {w.min()} to {w.max()}"
        )
    loss = np.asarray(losses(logits[known], labels[known]), np.float64)
    if loss.shape != (known.sum(),):
        raise ValueError(f"expected one loss for each of {known.sum()} examples, got {loss.shape}")
    checks.check_finite(loss, "losses")
    return w[known], loss


def _left_out_logits(x, is_target, fold):
    """Returns the log odds of "target" ``[n]``, of each fold from a fit to the others."""
    with extras.needs("this rule"):
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import PredefinedSplit, cross_val_predict
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

    def logits(cost):
        classifier = make_pipeline(StandardScaler(), LogisticRegression(C=cost, max_iter=1000))
        split = PredefinedSplit(fold)
        return cross_val_predict(classifier, x, is_target, cv=split, method="decision_function")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        every = [logits(cost) for cost in COSTS]
    return min(every, key=lambda z: np.logaddexp(0, np.where(is_target, -z, z)).mean())


def _check_classes(labels, count, name, classes=None):
    if labels.shape != (count,):
        raise ValueError(f"expected {name} to have shape [{count}], got {list(labels.shape)}")
    checks.check_labels(labels, classes, name=name)
    if np.any(labels < 0):
        raise ValueError(f"{name} contain -1: expected classes, 0, 1, ...")


def _split(x, share, draw, name):
    """Returns which examples to train on, and which to hold out."""
    count = len(x)
    if not 0 < share < 1:
        raise ValueError(f"expected held_out in (0, 1), got {share}")
    some = max(1, round(share * count))
    if some >= count:
        raise ValueError(f"expected more examples in {name}, got {count}: {some} are held out")
    order = draw.permutation(count)
    return order[some:], order[:some]
