"""Predictions, features and accuracies of a trained model."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from dann_jax import kernels
from dann_jax.captured import remembered
from dann_jax.checks import (
    check_count,
    check_images,
    check_kinds,
    check_labels,
    check_scaled,
    count_examples,
    known_values,
)
from dann_jax.networks import DannModel
from dann_jax.objective import TARGET, check_domain

__all__ = [
    "AccuracyCounts",
    "accuracy_counts",
    "evaluate",
    "features",
    "label_logits",
    "last_hidden_layer",
    "layer_names",
    "predict",
    "predicted_classes",
]


class AccuracyCounts(NamedTuple):
    """Counts whose sums over batches, or devices, give an exact accuracy."""

    correct: chex.Array  # [] int32
    count: chex.Array  # [] int32
    not_finite: chex.Array | int = 0  # [] int32, examples with a logit that is not finite

    @property
    def accuracy(self) -> float:
        """The share of correct labels, in [0, 1]; NaN without examples or with ``not_finite``."""
        if int(self.not_finite) or not int(self.count):
            return float("nan")
        return float(self.correct) / float(self.count)


def accuracy_counts(
    label_logits: chex.Array, labels: chex.Array, mask: chex.Array | None = None
) -> AccuracyCounts:
    """Returns how many labels are the class of the largest logit, and how many there are.

    Args:
      label_logits: ``[n, classes]``.
      labels: ``[n]`` int, -1 where unknown: such an example is not counted.
      mask: ``[n]`` bool, False for padding; None for no padding.

    Returns:
      Counts, int32, shape ``[]``. An example with a logit that is not finite is not correct.

    Raises:
      ValueError: The shapes do not fit each other, or a label is no class and not -1.
      TypeError: The labels are not integers.
    """
    shapes = np.shape(label_logits), np.shape(labels)
    if len(shapes[0]) != 2 or shapes[1] != shapes[0][:1]:
        raise ValueError(
            f"expected logits [n, classes] and labels [n], got {list(shapes[0])} "
            f"and {list(shapes[1])}"
        )
    check_labels(labels, shapes[0][1])
    if mask is None:
        mask = jnp.ones(shapes[1], bool)
    elif np.shape(mask) != shapes[1] or not jnp.issubdtype(jnp.result_type(mask), np.bool_):
        raise ValueError(
            f"expected a mask of bool {list(shapes[1])}, one for each label, got "
            f"{jnp.result_type(mask)} {list(np.shape(mask))}"
        )
    mask = mask & (jnp.asarray(labels) >= 0)
    classes = predicted_classes(label_logits)
    correct = (classes == jnp.asarray(labels)) & (classes >= 0) & mask
    counted = correct, mask, (classes < 0) & mask
    return AccuracyCounts(*(jnp.sum(each, dtype=jnp.int32) for each in counted))


def predicted_classes(label_logits: chex.Array) -> chex.Array:
    """Returns the class of the largest logit, -1 where a logit is not finite.

    >>> predicted_classes(np.array([[0.0, 1.0], [np.nan, 1.0]])).tolist()
    [1, -1]

    Args:
      label_logits: ``[..., classes]``.

    Returns:
      ``[...]`` int32.

    Raises:
      TypeError: The logits are no array of real numbers with an axis of 2 classes or more.
    """
    dtype, shape = getattr(label_logits, "dtype", np.dtype(float)), np.shape(label_logits)
    if not shape or shape[-1] < 2 or np.dtype(dtype).kind in "cOSUmM":
        raise TypeError(
            f"expected logits [..., classes] of real numbers, got {dtype} {list(shape)}: let "
            "G_y end in a unit for each of 2 classes or more"
        )
    label_logits = jnp.asarray(label_logits)
    finite = jnp.isfinite(label_logits).all(-1)
    return jnp.where(finite, jnp.argmax(label_logits, -1), -1).astype(jnp.int32)


def predict(
    model: DannModel,
    state: Any,
    images: chex.Array,
    *,
    preprocess: Callable[[chex.Array], chex.Array] | None = None,
    domain: int = TARGET,
    batch_size: int = 512,
) -> np.ndarray:
    """Returns label logits of images, for data sets of any size.

    Args:
      model: The model that was trained.
      state: Its ``TrainState`` (``theta`` and ``batch_stats`` are used).
      images: ``[n, height, width, channel]``, as stored; a pytree where G_f has several inputs.
      preprocess: Turns a batch of images as stored into one that G_f takes, each by itself; None
        for images as G_f takes them. One that does the same as before, with the same values of
        what it closes over, is compiled once.
      domain: Domain of the images, 0 source or 1 target, for networks that treat them
        differently (batch statistics of each domain, say).
      batch_size: Examples a call; the last batch is padded.

    Returns:
      ``[n, classes]`` float32. The predicted class is that of ``predicted_classes``.

    Raises:
      ValueError: The domain is another, or none of the batches that trained the network were of
        it and its batch statistics are those of the start; the state is that of several trainings;
        there are no images, or they are uint8 and there is no ``preprocess``.
    """
    images, preprocess = _checked(images, preprocess)
    _check_domain(model, state, images, preprocess, domain)
    forward = _compiled(model, domain, preprocess, None)
    return _in_batches(forward, state, images, batch_size)


def label_logits(model: DannModel, theta: Any, batch_stats: Any, x: Any, *, domain: Any) -> Any:
    """Returns G_y(G_f(x)) as at prediction, a pure function for programs of one's own.

    Args:
      model: G_f and G_y.
      theta: Parameters of a state.
      batch_stats: Its running averages of batch norm.
      x: Preprocessed examples ``[n, ...]``.
      domain: Of all examples, 0 source or 1 target.
    """
    for part in "fy":
        x, _ = model.parts[part].apply(theta[part], batch_stats[part], x, domain=domain)
    return x


def features(
    model: DannModel,
    state: Any,
    images: chex.Array,
    *,
    layer: str = "f",
    preprocess: Callable[[chex.Array], chex.Array] | None = None,
    domain: int = TARGET,
    batch_size: int = 512,
) -> np.ndarray:
    """Returns the activations of a named layer for images, for data sets of any size.

    Args:
      model: The model that was trained.
      state: Its ``TrainState``.
      images: As in ``predict``.
      layer: ``'f'`` for the output of G_f, ``'y'`` or ``'d'`` for the logits, or a layer in one
        of them, such as ``'f/conv1'`` or ``'y/fc2'`` (see ``layer_names``).
      preprocess: As in ``predict``.
      domain: As in ``predict``.
      batch_size: Examples a call; the last batch is padded.

    Returns:
      ``[n, ...]`` float32, a pytree of such where the layer has several outputs.

    Raises:
      ValueError: There is no such layer, or as in ``predict``.
    """
    images, preprocess = _checked(images, preprocess)
    _check_domain(model, state, images, preprocess, domain)
    sample = jax.eval_shape(preprocess, jax.tree.map(lambda a: a[:1], images))
    names = layer_names(model, state, sample)
    if layer not in names:
        raise ValueError(f"no layer {layer!r}: expected one of {', '.join(names)}")
    forward = _compiled(model, domain, preprocess, layer)
    return _in_batches(forward, state, images, batch_size)


def layer_names(model: DannModel, state: Any, image: chex.Array) -> tuple[str, ...]:
    """Returns the names that ``features`` takes.

    Args:
      model: The model.
      state: Its ``TrainState``.
      image: Preprocessed images ``[n, height, width, channel]``, or their shape.
    """
    shapes = jax.eval_shape(
        lambda theta, batch_stats, x: _activations(model, theta, batch_stats, x, TARGET),
        state.theta,
        state.batch_stats,
        image,
    )
    return tuple(shapes)


def last_hidden_layer(model: DannModel) -> str:
    """Returns the name, for ``features``, of what G_y's last layer takes.

    That is the last hidden layer of G_y, or the output of G_f where G_y has one layer, or is not
    one of ``FullyConnected`` layers.

    Args:
      model: The model.
    """
    hidden = getattr(model.label_predictor, "hidden", ())
    return f"y/fc{len(hidden)}" if hidden else "f"


def evaluate(label_logits: chex.Array, labels: chex.Array) -> float:
    """Returns the accuracy, in [0, 1], over the examples whose label is known.

    Args:
      label_logits: ``[n, classes]``.
      labels: ``[n]`` int, -1 where unknown.

    Returns:
      The accuracy; NaN if no label is known, or if a logit is not finite: the largest of such
      logits means nothing.

    Raises:
      ValueError: The shapes do not fit each other, or a label is no class and not -1.
      TypeError: The labels are not integers.
    """
    integers = np.issubdtype(np.asarray(labels).dtype, np.integer)  # others are refused
    known = np.asarray(labels) >= 0 if integers else None
    counts = accuracy_counts(label_logits, labels, known)
    return counts.accuracy if np.isfinite(label_logits).all() else float("nan")


def _as_it_is(image):
    return image


def _checked(images, preprocess):
    """Returns arrays and a function for ``preprocess``; raises where they are none."""
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(images)):
        raise TypeError(
            "expected arrays, got those of a trace, as inside jax.jit: call evaluation."
            "label_logits there, the pure function"
        )
    check_kinds(images, "images")
    images = jax.tree.map(lambda a: a if isinstance(a, jax.Array) else np.asarray(a), images)
    check_images(jax.tree.map(lambda a: a[:0] if a.ndim else a, images), empty=True)
    if preprocess is None:
        check_scaled(images, "images")
        return images, _as_it_is
    if not callable(preprocess):
        raise TypeError(
            f"preprocess must be a function of a batch of images, got {preprocess!r:.40}: leave it "
            "out for images as G_f takes them"
        )
    return images, preprocess


def _check_domain(model, state, images, preprocess, domain):
    """Raises where a domain is none, or its batch statistics those that its training started from.

    They are where no batch of that domain was trained on, as by ``label_objective``, but batches
    of the other one. An array all 0 or all 1 is an average or a variance that never moved.
    """
    check_domain(domain, joint=False)
    if not all(hasattr(state, name) for name in ("theta", "batch_stats")):
        remedy = "an update and a training program return it first, then the metrics"
        if hasattr(state, "state"):
            remedy = "pass the state in it, .state"
        raise TypeError(f"state must be a TrainState, got {type(state).__name__}: {remedy}")
    if np.ndim(getattr(state, "step", 0)):
        raise ValueError(
            f"expected the state of one training, got that of {np.size(state.step)}: pass "
            "fitted.of(0).state, say, or jax.tree.map(lambda a: a[0], state)"
        )
    if not np.any(getattr(state, "step", 1)):  # nothing was trained: there is nothing to mix up
        return
    leaves = map(known_values, jax.tree.leaves(state.batch_stats))
    unmoved = {
        i
        for i, a in enumerate(leaves)
        if a is not None and a.size and np.ptp(a) == 0 and a.flat[0] in (0, 1)
    }
    if not unmoved or len(unmoved) == len(jax.tree.leaves(state.batch_stats)):
        return
    sample = jax.eval_shape(preprocess, jax.tree.map(lambda a: a[:1], images))
    shapes = jax.eval_shape(lambda *trees: trees, state.batch_stats, state.theta, sample)
    own, other = (_statistics_of(model, d, _Shapes(shapes)) for d in (domain, 1 - domain))
    if own - other and own - other <= unmoved and not other - own <= unmoved:
        name = ("source", "target")
        raise ValueError(
            f"no batch of the {name[domain]} was trained on, so that its batch statistics are "
            f"those of the start: pass domain={1 - domain} for those of the {name[1 - domain]}"
        )


class _Shapes:
    """A pytree of shapes that is hashable."""

    def __init__(self, tree):
        leaves, self._structure = jax.tree.flatten(tree)
        self._leaves = tuple(leaves)

    def __eq__(self, other):
        return vars(self) == vars(other)

    def __hash__(self):
        return hash((self._leaves, self._structure))

    @property
    def tree(self):
        return jax.tree.unflatten(self._structure, self._leaves)


@remembered(64)
def _statistics_of(model, domain, shapes):
    """Returns which leaves of the batch statistics an output depends on."""

    def outputs(batch_stats, theta, x):
        return _outputs(model, theta, batch_stats, x, domain)

    batch_stats, theta, sample = shapes.tree
    jaxpr = jax.make_jaxpr(outputs)(batch_stats, theta, sample).jaxpr
    used = {id(v) for equation in jaxpr.eqns for v in equation.invars}
    inputs = jaxpr.invars[: len(jax.tree.leaves(batch_stats))]
    return {i for i, v in enumerate(inputs) if id(v) in used}


@remembered(64)
def _compiled(model, domain, preprocess, layer):
    def forward(theta, batch_stats, images):
        x = preprocess(images)
        if layer is not None:
            return _activations(model, theta, batch_stats, x, domain)[layer]
        return label_logits(model, theta, batch_stats, x, domain=domain)

    options = kernels.compiler_options(jax.default_backend())
    return jax.jit(forward, compiler_options=options)


def _activations(model, theta, batch_stats, x, domain):
    """Returns the outputs of the parts and of the layers in them, by name."""
    layers = {}
    outputs = _outputs(model, theta, batch_stats, x, domain, layers)
    activations = {}
    for name, output in outputs.items():
        activations[name] = output
        activations |= {f"{name}/{layer}": each for layer, each in layers[name].items()}
    return activations


def _outputs(model, theta, batch_stats, x, domain, layers=None):
    """Returns the outputs of the parts by name, and adds those of their layers to ``layers``."""
    outputs = {}
    for name, part in model.parts.items():
        of_part = None if layers is None else layers.setdefault(name, {})
        inputs = model.inputs(name, x, outputs)
        outputs[name], _ = part.apply(
            theta[name], batch_stats[name], inputs, domain=domain, layers=of_part
        )
    return outputs


def _in_batches(forward, state, images, batch_size):
    check_count(batch_size, "batch_size")
    examples = count_examples(images)
    if not examples:
        raise ValueError("no images: expected at least one")

    def rows(array, start):
        batch = array[start : start + batch_size]
        missing = batch_size - len(batch) if start else 0  # one shape, one compilation
        return jnp.pad(batch, [(0, missing)] + [(0, 0)] * (batch.ndim - 1)) if missing else batch

    outputs = []
    for start in range(0, examples, batch_size):
        some = jax.tree.map(lambda a, start=start: a[start : start + batch_size], images)
        check_images(some, f"images[{start}:]" if start else "images")
        batch = jax.tree.map(lambda array, start=start: rows(array, start), images)
        output = forward(state.theta, state.batch_stats, batch)
        size = min(batch_size, examples - start)
        for leaf in jax.tree.leaves(output):
            if np.ndim(leaf) < 1 or len(leaf) < size:
                raise ValueError(
                    f"expected outputs of all {size} examples of a batch, got "
                    f"{list(np.shape(leaf))}: let preprocess and the network keep the first axis"
                )
        outputs.append(jax.tree.map(lambda a, size=size: np.asarray(a)[:size], output))
    return jax.tree.map(lambda *parts: np.concatenate(parts).astype(np.float32), *outputs)
