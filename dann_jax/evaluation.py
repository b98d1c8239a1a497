"""Predictions, features and accuracies of a trained model."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from dann_jax import compilation
from dann_jax.networks import DannModel, PureFunction, accepted

__all__ = [
    "Hits",
    "evaluate",
    "features",
    "hits",
    "last_hidden_layer",
    "layer_names",
    "predict",
]


class Hits(NamedTuple):
    """Counts whose sums over batches, or devices, give an exact accuracy."""

    correct: chex.Array  # [] int32
    count: chex.Array  # [] int32

    @property
    def accuracy(self) -> float:
        """The share of correct labels, in [0, 1]; NaN without examples."""
        return float(self.correct) / float(self.count) if int(self.count) else float("nan")


def hits(label_logits: chex.Array, labels: chex.Array, mask: chex.Array | None = None) -> Hits:
    """Returns how many labels are the class of the largest logit, and of how many.

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
    return Hits(jnp.sum(correct, dtype=jnp.int32), jnp.sum(mask, dtype=jnp.int32))


def predict(
    model: DannModel,
    state: Any,
    images: chex.Array,
    *,
    preprocess: Callable[[chex.Array], chex.Array] = lambda image: image,
    domain: int = 1,
    batch_size: int = 512,
) -> np.ndarray:
    """Returns label logits of images, for data sets of any size.

    Args:
      model: The model that was trained.
      state: Its ``TrainState`` (``theta`` and ``statistics`` are used).
      images: ``[n, height, width, channel]``, as stored.
      preprocess: Turns a batch of images as stored into one that G_f takes. Pass the same
        function each time: a new one means a new compilation.
      domain: Whose batch statistics to use, where they are per domain: 0 source, 1 target.
      batch_size: Examples a call; the last batch is padded.

    Returns:
      ``[n, classes]`` float32. The predicted class is ``argmax`` over the last axis.
    """
    forward = _forward(model, domain, preprocess, None)
    return _in_batches(forward, state, images, batch_size)


def features(
    model: DannModel,
    state: Any,
    images: chex.Array,
    *,
    layer: str = "f",
    preprocess: Callable[[chex.Array], chex.Array] = lambda image: image,
    domain: int = 1,
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
      ValueError: There is no such layer.
    """
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
        lambda theta, statistics, x: _activations(model, theta, statistics, x, 1),
        state.theta,
        state.statistics,
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
    """Returns the accuracy, in [0, 1], over the examples whose label is known; NaN without any.

    Args:
      label_logits: ``[n, classes]``.
      labels: ``[n]`` int, negative where unknown.
    """
    if np.ndim(label_logits) != 2 or np.shape(labels) != np.shape(label_logits)[:1]:
        raise ValueError(
            f"expected logits [n, classes] and labels [n], got {list(np.shape(label_logits))} "
            f"and {list(np.shape(labels))}"
        )
    labels = np.asarray(labels)
    return jax.jit(hits)(np.asarray(label_logits), labels, labels >= 0).accuracy


def _forward(model, domain, preprocess, layer):
    """Returns a compiled program, the same for the same arguments where they are hashable."""
    try:
        return _compiled(model, domain, preprocess, layer)
    except TypeError:  # a module with an array among its attributes
        return _compiled.__wrapped__(model, domain, preprocess, layer)


@functools.lru_cache(maxsize=64)
def _compiled(model, domain, preprocess, layer):
    def forward(theta, statistics, images):
        x = preprocess(images)
        if layer is None:
            f, _ = _call(model.feature_extractor, theta["f"], statistics["f"], x, domain)
            return _call(model.label_predictor, theta["y"], statistics["y"], f, domain)[0]
        return _activations(model, theta, statistics, x, domain)[layer]

    options = compilation.options(jax.default_backend())
    return jax.jit(forward, compiler_options=options)


def _call(function, theta, statistics, x, domain):
    """Returns the output, and the outputs of the layers inside by their paths."""
    if isinstance(function, PureFunction):
        return function.apply(theta, x), {}
    options = {"train": False, "domain": domain, "axis_name": None}
    y, captured = function.apply(
        {"params": theta, **statistics},
        x,
        capture_intermediates=True,
        mutable=["intermediates"],
        **accepted(function, options),
    )
    inner = jax.tree_util.tree_leaves_with_path(
        captured["intermediates"], is_leaf=lambda node: isinstance(node, tuple)
    )
    layers = {}
    for path, outputs in inner:
        names = [str(key.key) for key in path if str(key.key) != "__call__"]
        if names:
            layers["/".join(names)] = outputs[0]
    return y, layers


def _activations(model, theta, statistics, x, domain):
    found = {}
    f, inner = _call(model.feature_extractor, theta["f"], statistics["f"], x, domain)
    found |= {"f": f} | {f"f/{name}": y for name, y in inner.items()}
    for part, function in (("y", model.label_predictor), ("d", model.domain_classifier)):
        z, inner = _call(function, theta[part], statistics[part], f, domain)
        found |= {part: z} | {f"{part}/{name}": y for name, y in inner.items()}
    return found


def _in_batches(forward, state, images, batch_size):
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    outputs = []
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        size = len(batch)
        if size < batch_size and start:  # one shape, one compilation
            batch = jnp.pad(batch, [(0, batch_size - size)] + [(0, 0)] * (batch.ndim - 1))
        outputs.append(np.asarray(forward(state.theta, state.statistics, batch))[:size])
    if not outputs:
        raise ValueError("no images: expected at least one")
    return np.concatenate(outputs).astype(np.float32)
