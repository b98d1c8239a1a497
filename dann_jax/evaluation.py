"""Predictions, features and accuracies of a trained model."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from dann_jax import kernels
from dann_jax.networks import DannModel
from dann_jax.objective import TARGET, check_domain

__all__ = [
    "AccuracyCounts",
    "accuracy_counts",
    "evaluate",
    "features",
    "last_hidden_layer",
    "layer_names",
    "predict",
]


class AccuracyCounts(NamedTuple):
    """Counts whose sums over batches, or devices, give an exact accuracy."""

    correct: chex.Array  # [] int32
    count: chex.Array  # [] int32

    @property
    def accuracy(self) -> float:
        """The share of correct labels, in [0, 1]; NaN without examples."""
        return float(self.correct) / float(self.count) if int(self.count) else float("nan")


def accuracy_counts(
    label_logits: chex.Array, labels: chex.Array, mask: chex.Array | None = None
) -> AccuracyCounts:
    """Returns how many labels are the class of the largest logit, and how many there are.

    Args:
      label_logits: ``[n, classes]``.
      labels: ``[n]`` int.
      mask: ``[n]`` bool, False for padding; None for no padding.

    Returns:
      Counts, int32, shape ``[]``.
    """
    chex.assert_equal_shape_prefix([label_logits, labels], 1)
    mask = jnp.ones(labels.shape, bool) if mask is None else mask
    correct = (jnp.argmax(label_logits, -1) == labels) & mask
    return AccuracyCounts(jnp.sum(correct, dtype=jnp.int32), jnp.sum(mask, dtype=jnp.int32))


def predict(
    model: DannModel,
    state: Any,
    images: chex.Array,
    *,
    preprocess: Callable[[chex.Array], chex.Array] = lambda image: image,
    domain: int = TARGET,
    batch_size: int = 512,
) -> np.ndarray:
    """Returns label logits of images, for data sets of any size.

    Args:
      model: The model that was trained.
      state: Its ``TrainState`` (``theta`` and ``batch_stats`` are used).
      images: ``[n, height, width, channel]``, as stored.
      preprocess: Turns a batch of images as stored into one that G_f takes. Pass the same
        function each time: a new one means a new compilation.
      domain: Domain of the images, 0 source or 1 target, for networks that treat them
        differently (batch statistics of each domain, say).
      batch_size: Examples a call; the last batch is padded.

    Returns:
      ``[n, classes]`` float32. The predicted class is ``argmax`` over the last axis.

    Raises:
      ValueError: The domain is another, or there are no images.
    """
    check_domain(domain, joint=False)
    forward = _forward(model, domain, preprocess, None)
    return _in_batches(forward, state, images, batch_size)


def features(
    model: DannModel,
    state: Any,
    images: chex.Array,
    *,
    layer: str = "f",
    preprocess: Callable[[chex.Array], chex.Array] = lambda image: image,
    domain: int = TARGET,
    batch_size: int = 512,
) -> np.ndarray:
    """Returns the activations of a named layer for images, for data sets of any size.

    Args:
      model: The model that was trained.
      state: Its ``TrainState``.
      images: ``[n, height, width, channel]``, as stored.
      layer: ``'f'`` for the output of G_f, ``'y'`` or ``'d'`` for the logits, or a layer in one
        of them, such as ``'f/conv1'`` or ``'y/fc2'`` (see ``layer_names``).
      preprocess: As in ``predict``.
      domain: As in ``predict``.
      batch_size: Examples a call; the last batch is padded.

    Returns:
      ``[n, ...]`` float32.

    Raises:
      ValueError: There is no such layer, the domain is another, or there are no images.
    """
    check_domain(domain, joint=False)
    sample = jax.eval_shape(preprocess, images[:1])
    names = layer_names(model, state, sample)
    if layer not in names:
        raise ValueError(f"no layer {layer!r}: expected one of {', '.join(names)}")
    forward = _forward(model, domain, preprocess, layer)
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
      labels: ``[n]`` int, negative where unknown.

    Returns:
      The accuracy; NaN if no label is known, or if a logit is not finite: the largest of such
      logits means nothing.

    Raises:
      ValueError: The shapes do not fit each other.
    """
    if np.ndim(label_logits) != 2 or np.shape(labels) != np.shape(label_logits)[:1]:
        raise ValueError(
            f"expected logits [n, classes] and labels [n], got {list(np.shape(label_logits))} "
            f"and {list(np.shape(labels))}"
        )
    labels = np.asarray(labels)
    if not np.isfinite(label_logits).all():
        return float("nan")
    return jax.jit(accuracy_counts)(np.asarray(label_logits), labels, labels >= 0).accuracy


def _forward(model, domain, preprocess, layer):
    """Returns a compiled program, the same for the same arguments where they are hashable."""
    try:
        return _compiled(model, domain, preprocess, layer)
    except TypeError:  # a module with an array among its attributes
        return _compiled.__wrapped__(model, domain, preprocess, layer)


@functools.lru_cache(maxsize=64)
def _compiled(model, domain, preprocess, layer):
    def forward(theta, batch_stats, images):
        x = preprocess(images)
        if layer is not None:
            return _activations(model, theta, batch_stats, x, domain)[layer]
        for part in "fy":
            x, _ = model.parts[part].apply(theta[part], batch_stats[part], x, domain=domain)
        return x

    options = kernels.compiler_options(jax.default_backend())
    return jax.jit(forward, compiler_options=options)


def _activations(model, theta, batch_stats, x, domain):
    """Returns the outputs of the parts and of the layers in them, by name."""
    activations = {}
    for name, part in model.parts.items():
        y, layers = part.layers(theta[name], batch_stats[name], x, domain=domain)
        activations |= {name: y} | {f"{name}/{layer}": output for layer, output in layers.items()}
        if name == "f":
            x = y
    return activations


def _in_batches(forward, state, images, batch_size):
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    outputs = []
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        size = len(batch)
        if size < batch_size and start:  # one shape, one compilation
            batch = jnp.pad(batch, [(0, batch_size - size)] + [(0, 0)] * (batch.ndim - 1))
        outputs.append(np.asarray(forward(state.theta, state.batch_stats, batch))[:size])
    if not outputs:
        raise ValueError("no images: expected at least one")
    return np.concatenate(outputs).astype(np.float32)
