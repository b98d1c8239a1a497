"""The losses L_y and L_d and the two objectives that are made of them: Eq. (1) and Eq. (9).

Eqs. (2) and (3) ask for a saddle point of Eq. (1): minimal in (theta_f, theta_y), maximal in
theta_d. Descent on Eq. (9) takes the steps (4)-(6) towards it.
"""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from dann_jax import checks
from dann_jax.batches import DomainBatch
from dann_jax.reversal import reverse_gradient

__all__ = [
    "Apply",
    "Forward",
    "NORMALIZATIONS",
    "Objective",
    "SOURCE",
    "TARGET",
    "Terms",
    "chance_domain_loss",
    "check_domain",
    "domain_loss",
    "joint_forward",
    "label_loss",
    "label_objective",
    "of_domains",
    "reversed_objective",
    "saddle_objective",
    "weighted_mean",
]

SOURCE = 0
"""The domain label d of the source."""

TARGET = 1
"""The domain label d of the target."""

NORMALIZATIONS = ("mean", "sum_of_means")


class Apply(NamedTuple):
    """The three mappings as pure functions ``(theta, x) -> output``.

    Those of ``make_update_step`` also take ``domain=SOURCE`` or ``domain=TARGET`` for examples of
    one domain. Without it, ``x`` is the joint batch: all source examples, then all target ones.
    Functions of your own need no such parameter.
    """

    feature_extractor: Callable[..., Any]  # G_f: images [n, ...] -> features [n, ...]
    label_predictor: Callable[..., Any]  # G_y: features -> label logits [n, classes]
    domain_classifier: Callable[..., Any]  # G_d: features -> domain logit [n] or [n, 1]


class Terms(NamedTuple):
    """The parts of an objective, None for what it does not have: a domain branch, classes.

    Metrics follow from them. There is an accuracy where it has a meaning: that of labels where
    they are integers ``[n]`` with logits ``[n, classes]`` of two classes or more, and that of
    domains where they are integers ``[n]`` with one logit each.
    """

    label_loss: chex.Array | None  # [] L_y
    domain_loss: chex.Array | None  # [] L_d, without lambda and without its weight
    features: Any  # [n, ...] source examples first, then target
    label_logits: chex.Array | None  # [labelled, classes]
    labels: chex.Array | None  # [labelled], -1 where unknown
    domain_logits: chex.Array | None  # [n]
    domains: chex.Array | None  # [n] 0 source, 1 target
    weights: chex.Array | None  # [n] of the examples, None for 1 each
    penalties: dict[str, chex.Array] = {}  # [] each, what else is added to L_y, unweighted


class Objective(Protocol):
    """A function of theta to minimize: ``reversed_objective``, ``label_objective``, your own.

    It may pass the joint batch through a part at once, or one domain after the other with
    ``domain=SOURCE`` and ``domain=TARGET``. It may declare ``key`` and ``average`` as further
    keyword arguments, see ``training.make_update_step``.
    """

    def __call__(
        self, theta, batch: DomainBatch, lam, apply: Apply, *, axis_name: str | None = None
    ) -> tuple[chex.Array, Terms]:
        """Returns the value, shape ``[]``, and its terms."""


def label_loss(
    label_logits: chex.Array,
    labels: chex.Array,
    weights: chex.Array | None = None,
    *,
    axis_name: str | None = None,
) -> chex.Array:
    """Returns L_y, the multinomial logistic loss, averaged over the examples.

    ``L_y = - sum_i w_i log softmax(z_i)[y_i] / sum_i w_i`` over the examples whose label is
    known, computed in float32 (stable for any finite logits; the value of an example, not its
    gradient, is exact to 1e-7 times its largest logit). 0 where all weights are 0.

    >>> round(float(label_loss(jnp.zeros([2, 10]), jnp.array([3, 7]))), 4)  # ln 10
    2.3026

    Args:
      label_logits: ``[n, classes]``.
      labels: ``[n]``, integers 0..classes-1, or -1 where the label is not known. Under a trace,
        where values cannot be checked, a label that is neither gives NaN.
      weights: ``[n]``, non-negative; 1 for each if None.
      axis_name: Mapped axis over which the normalizer is averaged, so that the mean of the
        devices' losses is the loss of the whole batch even where their weights differ.

    Returns:
      L_y in nats, shape ``[]``, float32.

    Raises:
      ValueError: The shapes do not fit each other, there is a single class, or a label is none.
      TypeError: The labels are not integers, or the logits not floating-point.

    Source: Ganin & Lempitsky (2015), Sec. 3.1.
    """
    label_logits = _logits(label_logits, "label")
    if label_logits.ndim != 2 or np.shape(labels) != label_logits.shape[:1]:
        raise ValueError(
            f"expected label logits [n, classes] and labels [n], got {list(label_logits.shape)} "
            f"and {list(np.shape(labels))}: pass one integer label for each row of logits"
        )
    if label_logits.shape[1] < 2:
        raise ValueError(
            "expected label logits [n, classes] of at least 2 classes to tell apart, got "
            f"{list(label_logits.shape)}: let G_y end in a unit for each class"
        )
    checks.check_labels(labels, label_logits.shape[1])
    labels = jnp.asarray(labels).astype(jnp.int32)
    losses = optax.softmax_cross_entropy_with_integer_labels(
        label_logits.astype(jnp.float32), jnp.maximum(labels, 0)
    )
    return weighted_mean(losses, _known(labels, weights), axis_name)


def _known(labels, weights):
    """Returns the weights of examples, 0 where the label is not known, NaN where it is none."""
    known = jnp.where(labels >= -1, (labels >= 0).astype(jnp.float32), np.float32(np.nan))
    if weights is None:
        return known
    return _weights(weights, labels) * known


def domain_loss(
    domain_logits: chex.Array,
    domains: chex.Array,
    weights: chex.Array | None = None,
    *,
    normalization: str = "mean",
    axis_name: str | None = None,
) -> chex.Array:
    """Returns L_d, the binomial cross-entropy of the domain classifier.

    For one example ``-d log s(z) - (1 - d) log(1 - s(z))`` with the logistic function s. Over
    examples ``'mean'`` takes one mean over the joint batch (ln 2 = 0.693 at chance),
    ``'sum_of_means'`` the mean over source plus the mean over target (2 ln 2 = 1.386 at
    chance; JMLR Eq. 10). Lambda is no part of it: that belongs to ``reverse_gradient``.

    >>> round(float(domain_loss(jnp.zeros([4]), jnp.array([0, 0, 1, 1]))), 4)  # ln 2
    0.6931

    Args:
      domain_logits: ``[n]`` or ``[n, 1]``, the logit of "target".
      domains: ``[n]``, 0 for source and 1 for target.
      weights: ``[n]``, non-negative; 1 for each if None.
      normalization: ``'mean'`` or ``'sum_of_means'``.
      axis_name: As in ``label_loss``.

    Returns:
      L_d in nats, shape ``[]``, float32.

    Raises:
      ValueError: The shapes do not fit each other, a domain is neither 0 nor 1, or the
        normalization is unknown.
      TypeError: The logits are not floating-point.

    Source: Ganin & Lempitsky (2015), Sec. 3.1; Ganin et al. (JMLR 2016), Eq. (10).
    """
    _check_normalization(normalization)
    checks.check_domains(domains)
    domain_logits, domains = _logits(domain_logits, "domain"), jnp.asarray(domains)
    if domain_logits.ndim == 2 and domain_logits.shape[1] == 1:
        domain_logits = domain_logits[:, 0]  # [n, 1] against [n] would broadcast to [n, n]
    if domain_logits.ndim != 1 or domains.shape != domain_logits.shape:
        raise ValueError(
            "expected one domain logit ([n] or [n, 1]) and one domain ([n]) for each example, "
            f"got {list(domain_logits.shape)} and {list(domains.shape)}: let G_d end in one unit"
        )
    domains = domains.astype(jnp.float32)
    losses = optax.sigmoid_binary_cross_entropy(domain_logits.astype(jnp.float32), domains)
    if normalization == "mean":
        return weighted_mean(losses, weights, axis_name)
    weights = jnp.ones_like(losses) if weights is None else _weights(weights, losses)
    source = weighted_mean(losses, weights * (1.0 - domains), axis_name)
    return source + weighted_mean(losses, weights * domains, axis_name)


def chance_domain_loss(normalization: str = "mean") -> float:
    """Returns the value of ``domain_loss`` for a classifier that cannot tell the domains apart.

    Args:
      normalization: ``'mean'`` (0.693) or ``'sum_of_means'`` (1.386).

    Returns:
      ln 2 or 2 ln 2, in nats.

    Raises:
      ValueError: The normalization is unknown.
    """
    _check_normalization(normalization)
    ln2 = 0.6931471805599453
    return ln2 if normalization == "mean" else 2 * ln2


def saddle_objective(
    theta: Any,
    batch: DomainBatch,
    lam: float | chex.Array,
    apply: Apply,
    *,
    normalization: str = "mean",
    domain_weight: float = 1.0,
    axis_name: str | None = None,
) -> tuple[chex.Array, Terms]:
    """Returns E of Eq. (1): ``E(theta_f, theta_y, theta_d) = L_y - lam L_d``.

    The saddle point (2), (3) is its minimum in (theta_f, theta_y) and its maximum in theta_d.
    Descending on E itself would lead theta_d away from it: train with ``reversed_objective``.

    Args:
      theta: Parameters ``{'f', 'y', 'd'}``.
      batch: Source and target examples, preprocessed for G_f.
      lam: Lambda, scalar, may be traced.
      apply: G_f, G_y and G_d as functions of (theta, x).
      normalization: Of L_d, see ``domain_loss``.
      domain_weight: Weight of L_d, dimensionless; 1 in the paper, 0.1 in its Office files.
      axis_name: As in ``label_loss``.

    Returns:
      E in nats, shape ``[]``, and its terms.

    Source: Ganin & Lempitsky (2015), Eq. (1).
    """
    checks.check_number(domain_weight, "domain_weight")
    terms = _terms(theta, batch, apply, lambda f: f, normalization, axis_name)
    L_y, L_d = terms.label_loss, terms.domain_loss
    return L_y - lam * domain_weight * L_d, terms


def reversed_objective(
    theta: Any,
    batch: DomainBatch,
    lam: float | chex.Array,
    apply: Apply,
    *,
    normalization: str = "mean",
    domain_weight: float = 1.0,
    axis_name: str | None = None,
) -> tuple[chex.Array, Terms]:
    """Returns E~ of Eq. (9): ``L_y(G_y(G_f(x)), y) + L_d(G_d(R_lam(G_f(x))), d)``.

    Its gradient is the direction of Eqs. (4)-(6): theta_f descends on ``L_y - lam L_d``,
    theta_y on L_y, and theta_d on L_d with weight 1 whatever lambda is.

    Args:
      theta: Parameters ``{'f', 'y', 'd'}``.
      batch: Source and target examples, preprocessed for G_f.
      lam: Lambda, scalar, may be traced.
      apply: G_f, G_y and G_d as functions of (theta, x).
      normalization: Of L_d, see ``domain_loss``.
      domain_weight: Weight of L_d, dimensionless; 1 in the paper, 0.1 in its Office files.
      axis_name: As in ``label_loss``.

    Returns:
      E~ in nats, shape ``[]``, and its terms (use ``jax.grad(..., has_aux=True)``).

    Source: Ganin & Lempitsky (2015), Eq. (9).
    """
    checks.check_number(domain_weight, "domain_weight")
    terms = _terms(
        theta, batch, apply, lambda f: reverse_gradient(f, lam), normalization, axis_name
    )
    L_y, L_d = terms.label_loss, terms.domain_loss
    return L_y + domain_weight * L_d, terms


def label_objective(
    theta: Any,
    batch: DomainBatch,
    lam: float | chex.Array,
    apply: Apply,
    *,
    axis_name: str | None = None,
) -> tuple[chex.Array, Terms]:
    """Returns L_y on the source examples alone: the baselines without a domain branch.

    With the source in ``batch.source_*`` it trains *source-only*, with the labelled target
    there *train-on-target*. Target examples are not used; ``lam`` has no effect.

    Args:
      theta: Parameters ``{'f', 'y', 'd'}``; 'd' receives a zero gradient.
      batch: Labelled examples, preprocessed for G_f.
      lam: Not used.
      apply: G_f and G_y as functions of (theta, x).
      axis_name: As in ``label_loss``.

    Returns:
      L_y in nats, shape ``[]``, and its terms.

    Source: Ganin & Lempitsky (2015), Sec. 4, "Baselines".
    """
    del lam
    G_f, G_y, _ = apply
    _check_batch(batch, ("source",))
    y, w = jnp.asarray(batch.source_label).astype(jnp.int32), batch.source_weight
    f = _call(G_f, theta["f"], batch.source_image, SOURCE)
    z_y = _call(G_y, theta["y"], f, SOURCE)
    _check_batch(batch, ("source",), z_y)
    L_y = label_loss(z_y, y, w, axis_name=axis_name)
    return L_y, Terms(L_y, None, f, z_y, y, None, None, w)


def _terms(theta, batch, apply, reversal, normalization, axis_name):
    """Returns the terms of Eqs. (1) and (9); ``reversal`` stands between G_f and G_d."""
    G_f, G_y, G_d = apply
    _check_batch(batch, ("source", "target"))
    x, d, y, w = _joint(batch)
    f = G_f(theta["f"], x)
    # The labelled examples come first: the source, or all where the target has labels too.
    labelled = SOURCE if batch.target_label is None else None
    z_y = _call(G_y, theta["y"], jax.tree.map(lambda a: a[: len(y)], f), labelled)
    _check_batch(batch, ("source", "target"), z_y)
    L_y = label_loss(z_y, y, None if w is None else w[: len(y)], axis_name=axis_name)
    z_d = G_d(theta["d"], reversal(f))
    L_d = domain_loss(z_d, d, w, normalization=normalization, axis_name=axis_name)
    return Terms(L_y, L_d, f, z_y, y, z_d.reshape(d.shape), d, w)


class Forward(NamedTuple):
    """G_f and G_y on the joint batch, for objectives that need logits of the target as well."""

    features: Any  # [n, ...] source examples first, then target
    label_logits: chex.Array  # [n, classes]
    label_loss: chex.Array  # [] L_y, over the labelled examples
    labels: chex.Array  # [labelled], the first of the n
    domains: chex.Array  # [n] 0 source, 1 target
    weights: chex.Array | None  # [n], None for 1 each
    n_source: int  # of the n
    layers: list[chex.Array]  # [n, ...], of G_y from the first to the logits, where asked for

    def terms(self, domain_loss=None, domain_logits=None, **penalties) -> Terms:
        """Returns the terms of an objective, with a domain branch where there is one."""
        return Terms(
            self.label_loss,
            domain_loss,
            self.features,
            self.label_logits[: len(self.labels)],
            self.labels,
            None if domain_logits is None else domain_logits.reshape(self.domains.shape),
            None if domain_logits is None else self.domains,
            self.weights,
            penalties,
        )


def joint_forward(
    theta: Any,
    batch: DomainBatch,
    apply: Apply,
    *,
    layers: bool = False,
    axis_name: str | None = None,
) -> Forward:
    """Returns the outputs of G_f and G_y for the joint batch, and L_y.

    Args:
      theta: Parameters ``{'f', 'y', 'd'}``.
      batch: Source and target examples, preprocessed for G_f.
      apply: G_f and G_y as functions of (theta, x).
      layers: Whether to give the outputs of G_y's top-level layers too. Functions that do not
        declare ``layers`` have one, the logits.
      axis_name: As in ``label_loss``.
    """
    G_f, G_y, _ = apply
    _check_batch(batch, ("source", "target"))
    x, d, y, w = _joint(batch)
    f = G_f(theta["f"], x)
    inside: dict[str, Any] = {}
    z = G_y(theta["y"], f, **({"layers": inside} if layers and _has(G_y, "layers") else {}))
    for name, outputs in (("G_f", f), ("G_y", z)):
        if checks.count_examples(outputs, f"outputs of {name}") != len(d):
            raise ValueError(
                f"expected outputs of {name} for each of {len(d)} examples, got "
                f"{checks.count_examples(outputs)}: keep the first axis"
            )
    labelled = z[: len(y)]
    _check_batch(batch, ("source", "target"), labelled)
    L_y = label_loss(labelled, y, None if w is None else w[: len(y)], axis_name=axis_name)
    top = [output for name, output in inside.items() if "/" not in name and output is not z]
    n_source = checks.count_examples(batch.source_image)
    return Forward(f, z, L_y, y, d, w, n_source, [*top, z])


def of_domains(
    values: Any, batch: DomainBatch, *, axis_name: str | None = None
) -> tuple[chex.Array, chex.Array]:
    """Returns values of the source ``[n, D]`` and of the target ``[m, D]``, of all devices.

    Args:
      values: ``[n + m, ...]``, source examples first; a pytree where there are several.
      batch: Which they are of.
      axis_name: Mapped axis of the devices; None for one.
    """
    rows = [jnp.asarray(a).reshape(len(a), -1) for a in jax.tree.leaves(values)]
    joint = jnp.concatenate(rows, 1).astype(jnp.float32)
    n = checks.count_examples(batch.source_image)
    if axis_name is None:
        return joint[:n], joint[n:]
    source, target = (
        jax.lax.all_gather(part, axis_name, tiled=True) for part in (joint[:n], joint[n:])
    )
    return source, target


def _call(function, theta, x, domain):
    """Returns ``function(theta, x)``, and passes the domain on if it has a parameter for it."""
    if domain is None or not _has(function, "domain"):
        return function(theta, x)
    return function(theta, x, domain=domain)


def _has(function, parameter):
    try:
        return parameter in inspect.signature(function).parameters
    except (TypeError, ValueError):  # some callables have no signature
        return False


def check_domain(domain: int | None, *, joint: bool = True) -> None:
    """Raises where a domain is none of those there are.

    Args:
      domain: ``SOURCE``, ``TARGET``, or None for a joint batch.
      joint: Whether None is allowed.

    Raises:
      ValueError: It is another value.
    """
    if (joint and domain is None) or (
        isinstance(domain, int | np.integer)
        and not isinstance(domain, bool)
        and domain in (SOURCE, TARGET)
    ):
        return
    either = ", or None (the joint batch)" if joint else ""
    raise ValueError(
        f"unknown domain {domain!r}: expected {SOURCE} (source) or {TARGET} (target){either}"
    )


def _check_batch(batch, used, label_logits=None):
    """Raises unless images, labels and weights of a batch are what their names say.

    Args:
      batch: The batch.
      used: The domains whose images are used.
      label_logits: Those of G_y, whose number is that of the classes; None if not yet known.
    """
    if not all(hasattr(batch, name) for name in DomainBatch._fields):
        raise TypeError(
            f"expected a DomainBatch, got {type(batch).__name__}: pass DomainBatch(source_image, "
            "source_label, target_image)"
        )
    if batch.source_label is None:
        raise ValueError("expected labels of the source, got None: give source_label")
    classes = np.shape(label_logits)[1] if np.ndim(label_logits) == 2 else None
    for name in ("source", "target"):
        labels, weights = (getattr(batch, f"{name}_{each}") for each in ("label", "weight"))
        image = getattr(batch, f"{name}_image")
        if name in used:
            examples = checks.check_images(image, f"{name}_image")
        elif labels is None:
            continue
        else:
            examples = checks.count_examples(image, f"{name}_image")
        if weights is not None:
            checks.check_weights(weights, (examples,), name=f"{name}_weight")
        if labels is None:
            continue
        if np.shape(labels) != (examples,):
            raise ValueError(
                f"expected {name}_label [{examples}], one label for each of {examples} {name} "
                f"examples, got {list(np.shape(labels))}"
            )
        checks.check_labels(labels, classes, name=f"{name}_label")


def _check_alike(batch):
    """Raises unless examples of both domains can be put together in one batch."""
    images = batch.source_image, batch.target_image
    source, target = (
        [
            jax.tree.structure(image),
            *((a.shape[1:], jnp.issubdtype(a.dtype, jnp.floating)) for a in jax.tree.leaves(image)),
        ]
        for image in images
    )
    if source != target:
        shown = [jax.tree.map(lambda a: f"{a.dtype}{list(a.shape)}", image) for image in images]
        raise ValueError(
            "expected images of the same structure, shape and kind of numbers in both domains, "
            f"got {shown[0]} and {shown[1]}: preprocess both alike"
        )


def _joint(batch):
    """Returns images and domains of all N examples, labels of the labelled part, weights."""
    _check_alike(batch)
    x = jax.tree.map(lambda s, t: jnp.concatenate([s, t]), batch.source_image, batch.target_image)
    n_source, n_target = (
        checks.count_examples(image) for image in (batch.source_image, batch.target_image)
    )
    d = jnp.concatenate(
        [jnp.full([n_source], SOURCE, jnp.int32), jnp.full([n_target], TARGET, jnp.int32)]
    )
    y = jnp.asarray(batch.source_label).astype(jnp.int32)  # unsigned labels have no -1
    if batch.target_label is not None:
        y = jnp.concatenate([y, jnp.asarray(batch.target_label).astype(jnp.int32)])
    if batch.source_weight is None and batch.target_weight is None:
        return x, d, y, None
    w = [
        jnp.ones([n], jnp.float32) if weight is None else jnp.asarray(weight)
        for n, weight in ((n_source, batch.source_weight), (n_target, batch.target_weight))
    ]
    return x, d, y, jnp.concatenate(w)


def weighted_mean(
    values: chex.Array, weights: chex.Array | None = None, axis_name: str | None = None
) -> chex.Array:
    """Returns ``sum_i w_i v_i / sum_i w_i``; 0 where all weights are 0.

    Args:
      values: ``[n]``.
      weights: ``[n]``, non-negative; 1 for each if None.
      axis_name: Mapped axis over which the sum of the weights is averaged: then the mean of the
        devices' values is the weighted mean over all of them.

    Returns:
      The mean, shape ``[]``.

    Raises:
      ValueError: There is not one weight for each value.
    """
    if weights is None:
        return jnp.mean(values)
    weights = _weights(weights, values).astype(values.dtype)
    total = jnp.sum(weights)
    if axis_name is not None:
        total = jax.lax.pmean(total, axis_name)
    # 0 / 1, not 0 / 0, where nothing has a weight; the values there are finite.
    return jnp.sum(weights * values) / jnp.where(total > 0, total, 1.0)


def _weights(weights, values):
    """Returns weights as an array; raises unless there is one for each value."""
    checks.check_weights(weights, values.shape)
    return jnp.asarray(weights)


def _logits(logits, kind):
    """Returns logits as an array; raises unless they are floating-point."""
    dtype = getattr(logits, "dtype", None)
    if dtype is None and not isinstance(logits, list | tuple):
        raise TypeError(f"expected {kind} logits, an array, got {type(logits).__name__}")
    logits = jnp.asarray(logits)
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        raise TypeError(
            f"{kind} logits must be floating-point, got {logits.dtype}, along which there is no "
            "gradient: return the last layer's outputs as they are"
        )
    return logits


def _check_normalization(normalization):
    if normalization not in NORMALIZATIONS:
        raise ValueError(
            f"unknown normalization {normalization!r}: expected 'mean' (over the joint batch) "
            "or 'sum_of_means' (over source plus over target)"
        )
