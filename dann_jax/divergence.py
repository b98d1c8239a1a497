"""The theory that DANN rests on: distances between two domains, Eqs. (10)-(13), and a bound.

H is a set of hypotheses, functions that give an example a class. A distance is how differently the
best of them sees source S and target T: 0 where none tells the domains apart, 2 where one does so
without an error. H- and HΔH-divergence are exact for a finite set of hypotheses on the examples
given. They say nothing about how far these examples are from their populations.

``alpha`` and ``discriminator_bound`` work inside compiled functions; the others run on the host.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from dann_jax import checks

__all__ = [
    "COSTS",
    "alpha",
    "discriminator_bound",
    "domain_features",
    "empirical_h_divergence",
    "generator",
    "hdh_divergence",
    "proxy_a_distance",
    "target_risk_bound",
]

COSTS = tuple(10.0**k for k in range(-4, 3))  # of C, the weight of the SVM's losses


def empirical_h_divergence(source_predictions: chex.Array, target_predictions: chex.Array) -> float:
    """Returns the empirical H-divergence of a finite set H, the exact extremum over it.

    ``d_H(S, T) = 2 (1 - min_η [ (1/n) Σ_S I[η(x_i) = 0] + (1/n') Σ_T I[η(x_i) = 1] ])``

    The class is taken as symmetric, as this form of the paper requires: the minimum is over H and
    the complements ``1 - η``. So the value is also ``2 max_{η∈H} | P_S[η = 1] - P_T[η = 1] |``, and
    whether complements are listed makes no difference.

    >>> empirical_h_divergence([[0, 0, 0, 1]], [[1, 1, 1, 0]])  # 2 |1/4 - 3/4|
    1.0

    Args:
      source_predictions: ``[hypotheses, n]``, 0 or 1, of each hypothesis for each source example.
      target_predictions: ``[hypotheses, n']``, of the same hypotheses for the target's examples.

    Returns:
      A number in [0, 2].

    Raises:
      ValueError: The shapes do not fit each other, there are no hypotheses or no examples, or a
        prediction is neither 0 nor 1.

    Source: Ben-David et al. (NIPS 2006); Ganin et al. (JMLR 2016), Def. 1 and Eq. (1).
    """
    source, target = _predictions(source_predictions, target_predictions, classes=2)
    errors = np.mean(source == 0, 1) + np.mean(target == 1, 1)
    return float(2 * (1 - min(errors.min(), 2 - errors.max())))  # 2 - errors: of the complements


def hdh_divergence(source_predictions: chex.Array, target_predictions: chex.Array) -> float:
    """Returns the HΔH-divergence of Eq. (10), the exact maximum over all pairs of a finite set H.

    ``d_HΔH(S, T) = 2 max_{h1,h2∈H} | P_S[h1 ≠ h2] - P_T[h1 ≠ h2] |``

    For two classes this is the H-divergence of the symmetric difference class of Eq. (12), ``HΔH =
    { h1 ⊕ h2 : h1, h2 ∈ H }``, where two hypotheses disagree. With more classes ``h1 ≠ h2`` takes
    the place of ``h1 ⊕ h2``.

    >>> hdh_divergence([[0, 0], [0, 1]], [[0, 0], [0, 0]])  # they disagree on 1/2 and on 0
    1.0

    Args:
      source_predictions: ``[hypotheses, n]``, classes 0, 1, ... of each hypothesis for each source
        example.
      target_predictions: ``[hypotheses, n']``, of the same hypotheses for the target's examples.

    Returns:
      A number in [0, 2]; 0 for a single hypothesis.

    Raises:
      ValueError: The shapes do not fit each other, there are no hypotheses or no examples, or a
        prediction is not the number of a class.

    Source: Ben-David et al. (Machine Learning 2010); Ganin & Lempitsky (2015), Eqs. (10), (12).
    """
    source, target = _predictions(source_predictions, target_predictions)
    classes = np.union1d(source, target)
    agreement = _agreement(source, classes) - _agreement(target, classes)
    return float(2 * np.abs(agreement).max())  # P[h1 ≠ h2] is 1 - that of h1 = h2


def target_risk_bound(
    source_risk: chex.Numeric, divergence: chex.Numeric, constant: chex.Numeric
) -> chex.Numeric:
    """Returns the bound of Eq. (11) on the target's risk: ``ε_T(h) ≤ ε_S(h) + ½ d_HΔH(S, T) + C``.

    >>> round(target_risk_bound(0.02, 0.5, 0.01), 2)
    0.28

    Args:
      source_risk: ε_S(h), the share of the source that h gives a wrong class, in [0, 1].
      divergence: d_HΔH of the population or, for what a discriminator tells, Eq. (13); in [0, 2].
      constant: C, which does not depend on h: ``min_{h∈H} [ε_S(h) + ε_T(h)]``, the least risk of
        one hypothesis on both domains together, at least 0. It cannot be measured without target
        labels; where no hypothesis is good on both, small first terms promise nothing.

    Returns:
      The bound. From 1 on it says nothing.

    Raises:
      ValueError: A value is not finite, or outside of its range.

    Source: Ben-David et al. (Machine Learning 2010), Theorem 2; Ganin & Lempitsky (2015), Eq. (11).
    """
    _check_range(source_risk, 1, "source_risk")
    _check_range(divergence, 2, "divergence")
    _check_range(constant, np.inf, "constant")
    return source_risk + 0.5 * divergence + constant


def alpha(domain_logits: chex.Array, domains: chex.Array) -> jax.Array:
    """Returns α(h) of Eq. (13): the shares of both domains that G_d recognizes, added.

    ``α(h) = P_{f~S}[h(f) = 0] + P_{f~T}[h(f) = 1]`` with h(f) = 1, "target", where the logit is
    above 0. The mean over each domain is its own, so their sizes do not matter. At chance α is 1,
    and 2 where h makes no error.

    >>> float(alpha(jnp.array([-2.0, -1.0, -3.0, 4.0]), jnp.array([0, 0, 1, 1])))  # 1 + 1/2
    1.5

    Args:
      domain_logits: ``[n]`` or ``[n, 1]``, the logit of "target"; best of examples that G_d was not
        trained on.
      domains: ``[n]``, 0 for source and 1 for target; some of each.

    Returns:
      α in [0, 2], shape ``[]``, float32. Under a trace, where values cannot be checked, it is NaN
      where a logit is not finite or a domain has no example.

    Raises:
      ValueError: The shapes do not fit each other, a logit is not finite, a domain is neither 0 nor
        1, or there is no example of one.

    Source: Ganin & Lempitsky (2015), Eq. (13).
    """
    checks.check_domains(domains)
    checks.check_finite(domain_logits, "domain_logits")
    z, d = jnp.asarray(domain_logits), jnp.asarray(domains)
    if z.ndim == 2 and z.shape[1] == 1:
        z = z[:, 0]
    if z.ndim != 1 or d.shape != z.shape:
        raise ValueError(
            "expected one domain logit ([n] or [n, 1]) and one domain ([n]) for each example, "
            f"got {list(z.shape)} and {list(d.shape)}"
        )
    known = checks.known_values(domains)
    if known is not None and len(np.unique(known)) < 2:
        raise ValueError(
            "expected examples of both domains, got "
            f"{np.sum(known == 0)} of the source and {np.sum(known == 1)} of the target"
        )
    h = jnp.where(jnp.isfinite(z), z > 0, jnp.float32(jnp.nan))
    is_source, is_target = d == 0, d == 1
    source = jnp.where(is_source, 1 - h, 0).sum() / is_source.sum()
    target = jnp.where(is_target, h, 0).sum() / is_target.sum()
    return source + target


def discriminator_bound(alpha: chex.Numeric) -> jax.Array:
    """Returns ``2 |1 - α|`` of Eq. (13), what a trained G_d tells of the HΔH-divergence.

    ``d_HΔH(S, T) ≤ 2 sup_{h∈H_d} |1 - α(h)|`` holds for the supremum over all domain classifiers.
    The trained G_d stands for it: where it is not the best, as early in a training or behind a
    strong reversal, the number is too small and bounds nothing.

    >>> [float(discriminator_bound(a)) for a in (1.0, 1.5, 2.0)]
    [0.0, 1.0, 2.0]

    Args:
      alpha: α(h), any shape, in [0, 2]; may be traced. Of several h take the largest result.

    Returns:
      A number in [0, 2], shape of ``alpha``.

    Raises:
      ValueError: α is not finite, or outside of [0, 2]. Nothing is checked under a trace.

    Source: Ganin & Lempitsky (2015), Eq. (13).
    """
    _check_range(alpha, 2, "alpha")
    return 2.0 * jnp.abs(1.0 - jnp.asarray(alpha))


def proxy_a_distance(
    source_features: chex.Array, target_features: chex.Array, *, key: chex.PRNGKey
) -> float:
    """Returns the proxy A-distance, ``PAD = 2 (1 - 2 ε)``, of features by linear SVMs.

    The pooled features are split in two halves at random. Linear SVMs with each C of ``COSTS`` are
    fitted to the domains of the first half, and ε is the lowest error on the second. In both halves
    the domains have equally many examples: of the larger one as many are drawn as the smaller one
    has. So chance is ε = ½ for domains of any sizes. C → 0, the hypothesis that gives all examples
    one domain, is in the range, so ε is at most ½.

    It takes scikit-learn, and time in proportion to examples × features. With m examples of a
    domain its standard deviation is at most 2/√m: 2,000 of each tell ±.05. Other libraries train a
    network in place of SVMs; such numbers cannot be compared.

    Args:
      source_features: ``[n, ...]``, flattened; at least two examples.
      target_features: ``[n', ...]``, as many features.
      key: Draws the halves.

    Returns:
      A number in [0, 2], about 0 where no hyperplane tells the domains apart.

    Raises:
      ValueError: The features do not fit each other, are too few, or are not finite.

    Source: Ben-David et al. (NIPS 2006); Ganin et al. (JMLR 2016), Sec. 5.1.5.
    """
    from dann_jax.alignment import linear_svm  # needs scikit-learn

    features = domain_features(source_features, target_features)
    size = min(map(len, features))
    if size < 2:
        raise ValueError(f"expected at least 2 examples of each domain, got {size} of one")
    draw = generator(key)
    drawn = [x[draw.permutation(len(x))[:size]] for x in features]
    first, second = (
        linear_svm.Examples(np.concatenate(half), np.repeat([0, 1], len(half[0])))
        for half in zip(*([x[: size // 2], x[size // 2 :]] for x in drawn), strict=True)
    )
    accuracies = [linear_svm.accuracy(linear_svm.fit(first, c), second) for c in COSTS]
    error = min(0.5, 1 - max(accuracies))
    return 2 * (1 - 2 * error)


def domain_features(
    source_features: chex.Array, target_features: chex.Array
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the features of both domains as matrices ``[n, D]`` and ``[n', D]`` of float64.

    Args:
      source_features: ``[n, ...]``.
      target_features: ``[n', ...]``.

    Raises:
      ValueError: There are no examples or features, not the same features, or a number is not
        finite.
    """
    shapes = np.shape(source_features), np.shape(target_features)
    if shapes[0][1:] != shapes[1][1:] or not all(len(s) > 1 and np.prod(s) for s in shapes):
        raise ValueError(
            "expected features [n, ...] of source and target examples, with the same features in "
            f"both, got {list(shapes[0])} and {list(shapes[1])}"
        )
    checks.check_finite(source_features, "source_features")
    checks.check_finite(target_features, "target_features")
    both = (np.asarray(x, np.float64) for x in (source_features, target_features))
    source, target = (x.reshape(len(x), -1) for x in both)
    return source, target


def generator(key: chex.PRNGKey) -> np.random.Generator:
    """Returns NumPy's generator for a key of JAX: a draw on the host compiles nothing.

    Args:
      key: Typed (``jax.random.key``) or raw.

    Raises:
      TypeError: It is no key, or several.
    """
    checks.check_key(key)
    return np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())


def _predictions(source, target, classes=None):
    """Returns predictions of both domains, checked."""
    both = np.asarray(source), np.asarray(target)
    if any(x.ndim != 2 or not x.size for x in both) or len(both[0]) != len(both[1]):
        raise ValueError(
            "expected source_predictions [hypotheses, n] and target_predictions [hypotheses, n'] "
            f"of the same hypotheses, got {list(both[0].shape)} and {list(both[1].shape)}"
        )
    for name, x in zip(("source_predictions", "target_predictions"), both, strict=True):
        checks.check_finite(x, name)
        wrong = (x < 0) | (x != np.floor(x)) | (x >= (np.inf if classes is None else classes))
        if wrong.any():
            place = tuple(map(int, np.argwhere(wrong)[0]))
            expected = "0 or 1" if classes == 2 else "the number of a class, 0, 1, ..."
            raise ValueError(f"{name}{list(place)} is {x[place]}: expected {expected}")
    return both


def _agreement(predictions, classes):
    """Returns the share of examples ``[hypotheses, hypotheses]`` that two give the same class."""
    each = ((predictions == c).astype(np.float64) for c in classes)
    return sum(h @ h.T for h in each) / predictions.shape[1]


def _check_range(value, most, name):
    checks.check_finite(value, name)
    values = checks.known_values(value)
    if values is not None and (np.any(values < 0) or np.any(values > most)):
        raise ValueError(f"expected {name} in [0, {most}], got {value}")
