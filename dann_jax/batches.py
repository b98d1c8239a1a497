"""Batches of both domains: the batch of step t is a pure function of (key, t)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from dann_jax.checks import check_count, check_images, check_key, check_labels, check_pair

__all__ = [
    "BatchIndices",
    "DomainArrays",
    "DomainBatch",
    "TrainingKeys",
    "batch_indices",
    "check_arrays",
    "check_sizes",
    "gather",
    "in_blocks",
    "multiples",
    "split_key",
]

_CACHED_BLOCKS = 4  # of drawn batches


class DomainBatch(NamedTuple):
    """A batch of labelled source examples, and of target examples, few or none of them labelled.

    A weight of 0 takes an example out of the losses and the metrics (padding, say); batch
    statistics, where a network has any, are those of all examples. Images may be a pytree of
    arrays, where G_f has several inputs.
    """

    source_image: Any  # [source_batch, height, width, channel]
    source_label: chex.Array  # [source_batch] int, 0..classes-1, -1 where unknown
    target_image: Any  # [target_batch, height, width, channel]
    target_label: chex.Array | None = None  # [target_batch] int, -1 where unknown
    source_weight: chex.Array | None = None  # [source_batch], 1 for each if None
    target_weight: chex.Array | None = None  # [target_batch], 1 for each if None
    target_view: Any = None  # like target_image: another augmentation of the same examples


class DomainArrays(NamedTuple):
    """Whole data sets of a source and a target, kept on the device as they are stored.

    Images may be a pytree of arrays, where G_f has several inputs.
    """

    source_image: Any  # [source_examples, height, width, channel] uint8
    source_label: chex.Array  # [source_examples] int32
    target_image: Any  # [target_examples, height, width, channel] uint8
    target_label: chex.Array | None = None  # [target_examples] int32, -1 where unknown


class BatchIndices(NamedTuple):
    """Which examples make up the batches of successive steps."""

    source: chex.Array  # [steps, source_batch] int32
    target: chex.Array  # [steps, target_batch] int32


class TrainingKeys(NamedTuple):
    """The keys of a training's two kinds of randomness, each used with the step."""

    order: chex.PRNGKey  # of the data order, for batch_indices
    noise: chex.PRNGKey  # of dropout and random crops, for the update


def split_key(key: chex.PRNGKey) -> TrainingKeys:
    """Returns the keys of the data order and of the noise of a training.

    Every program splits its key here and nowhere else, so that all of them train alike.

    Args:
      key: PRNG key of the training.
    """
    check_key(key)
    order_key, noise_key = jax.random.split(key)
    return TrainingKeys(order_key, noise_key)


def batch_indices(
    key: chex.PRNGKey,
    first_step: int | chex.Array,
    *,
    steps: int,
    examples: tuple[int, int],
    batch: tuple[int, int],
    labelled: tuple[int, int] | None = None,
) -> BatchIndices:
    """Returns the examples of steps ``first_step`` to ``first_step + steps - 1``.

    Each domain runs in epochs, each in a new random order. The order of epoch e is a function
    of (key, domain, e) alone, so a batch does not depend on how many steps are drawn at once, on
    the number of devices, or on where a run was resumed. Epochs follow each other without a gap:
    a batch may hold the end of one and the start of the next, and the shorter domain simply
    cycles more often.

    Where few examples of the target are labelled, hardly a batch would hold one of them. So
    ``labelled`` gives them a place in each batch, in epochs of their own.

    Args:
      key: PRNG key of the data order: ``split_key(key).order``.
      first_step: First step, counted from 0; may be traced.
      steps: Number of successive steps, static.
      examples: Number of examples in (source, target), static.
      batch: Examples a step in (source, target), static.
      labelled: How many examples of the target are labelled, which come first in its data set,
        and how many of these a step has, which come first in its batch; static. None: the
        epochs of the target are those of all its examples.

    Returns:
      Indices, int32, shapes ``[steps, batch[0]]`` and ``[steps, batch[1]]``.

    Raises:
      TypeError: The key is none, or numbers are not whole ones.
      ValueError: A domain or a batch is empty, or both are too large to count in 32 bits.
    """
    check_key(key)
    for name, pair in (("examples", examples), ("batch", batch), ("labelled", labelled)):
        if pair is not None:
            check_pair(pair, name)
    if not hasattr(first_step, "dtype"):
        check_count(first_step, "first_step", 0)
    parts = {"source": (examples[0], batch[0]), "target": (examples[1], batch[1])}
    if labelled is not None:
        rest = examples[1] - labelled[0], batch[1] - labelled[1]
        parts = {"source": parts["source"], "labelled target": labelled}
        if rest != (0, 0):
            parts["unlabelled target"] = rest
    for name, (size, count) in parts.items():
        if size < 1 or count < 1:
            raise ValueError(
                f"the {name} has {size} examples and {count} a batch: expected at least 1 each"
            )
        if size * (count % size) >= 2**32:
            raise ValueError(
                f"{size} {name} examples times a batch of {count} is beyond 32 bits: "
                f"make the batch smaller, at most {(2**32 - 1) // size}"
            )
    source, target, *others = (
        _in_epochs(jax.random.fold_in(key, part), first_step, steps, *sizes)
        for part, sizes in enumerate(parts.values())
    )
    if labelled is not None and others:
        target = jnp.concatenate([target, labelled[0] + others[0]], 1)
    return BatchIndices(source, target)


def in_blocks(
    draw: Callable[[chex.PRNGKey, int, int], Any], block: int = 1024
) -> Callable[[chex.PRNGKey, int, int], Any]:
    """Returns ``draw`` for a host that asks for a few steps at a time, as NumPy arrays.

    The order of an epoch costs as much for one step as for all of its steps, and on a CPU more
    than the step itself. So it draws many steps at once and keeps them.

    Args:
      draw: ``(key, first step, steps)`` to a pytree of arrays whose first axis is the steps.
      block: Steps that are drawn at once.

    Returns:
      A function of the same arguments. It remembers the last few blocks.
    """
    cache: dict[tuple, Any] = {}  # the oldest first

    def block_of(key, name, number):
        drawn = cache.pop((name, number), None)
        if drawn is None:
            drawn = jax.device_get(draw(key, number * block, block))
        cache[name, number] = drawn
        while len(cache) > _CACHED_BLOCKS:
            del cache[next(iter(cache))]
        return drawn

    def rows(key, first, steps):
        name = key.dtype, np.asarray(jax.random.key_data(key)).tobytes()
        numbers = range(first // block, (first + steps - 1) // block + 1)
        start = first - numbers[0] * block
        return jax.tree.map(
            lambda *blocks: np.concatenate(blocks)[start : start + steps],
            *[block_of(key, name, number) for number in numbers],
        )

    return rows


def _in_epochs(key, first_step, steps, examples, batch):
    # The k-th example ever drawn is the (k mod examples)-th of epoch k div examples. The first
    # k of the call can pass 2^31 in a long run, so it is kept as (epoch, position).
    epoch, position = _divide(first_step, batch, examples)
    k = position + np.arange(steps * batch, dtype=np.int32)
    epochs = (examples - 1 + steps * batch - 1) // examples + 1  # most that the call can touch
    orders = jax.vmap(
        lambda e: jax.random.permutation(jax.random.fold_in(key, epoch + e), examples)
    )(jnp.arange(epochs))
    return orders[k // examples, k % examples].reshape(steps, batch).astype(jnp.int32)


def _divide(step, batch, examples):
    """Returns (step * batch) divmod examples without forming a product beyond 32 bits."""
    # step = a * examples + b: a whole turns of `batch` epochs, then b < examples steps more.
    a, b = jnp.divmod(jnp.asarray(step, jnp.uint32), jnp.uint32(examples))
    whole, rest = jnp.divmod(jnp.uint32(batch), jnp.uint32(examples))
    # b * batch = b * (whole * examples + rest), where b * rest < examples * rest < 2^32.
    carry, position = jnp.divmod(b * rest, jnp.uint32(examples))
    return a * jnp.uint32(batch) + b * whole + carry, position.astype(jnp.int32)


def check_arrays(
    arrays: DomainArrays,
    examples: tuple[int, int],
    labelled: tuple[int, int] | None = None,
    *,
    classes: int | None = None,
) -> None:
    """Checks that data sets are those that batches are drawn for, and that labels are classes.

    Args:
      arrays: The data sets.
      examples: Number of examples in (source, target).
      labelled: As in ``batch_indices``.
      classes: Number of classes; None for any.

    Raises:
      ValueError: They have other numbers of images or labels, a label is no class and not -1, a
        labelled example of the target has no label, or the target has labels and ``labelled``
        does not say which to train with.
      TypeError: Labels are not integers.
    """
    for name in ("source_label", "target_label"):
        if getattr(arrays, name, None) is not None:
            check_labels(getattr(arrays, name), classes, name=name)
    check_sizes(arrays, examples, labelled)


def check_sizes(
    arrays: DomainArrays, examples: tuple[int, int], labelled: tuple[int, int] | None = None
) -> None:
    """Checks what ``check_arrays`` does, but for the labels, which may be of any kind.

    Args:
      arrays: The data sets.
      examples: Number of examples in (source, target).
      labelled: As in ``batch_indices``.

    Raises:
      ValueError: As in ``check_arrays``.
    """
    if not all(hasattr(arrays, name) for name in DomainArrays._fields):
        raise TypeError(f"expected DomainArrays, got {type(arrays).__name__}")
    for name, pair in (("examples", examples), ("labelled", labelled)):
        if pair is not None:
            check_pair(pair, name)
    for name in ("source_label", "target_label"):
        labels = getattr(arrays, name)
        if not hasattr(labels, "dtype") and (labels is not None or name == "source_label"):
            raise TypeError(f"{name} must be an array, got {type(labels).__name__}")
    source, target = (
        check_images(getattr(arrays, name), name, empty=True)
        for name in ("source_image", "target_image")
    )
    labels = np.shape(arrays.source_label)[0] if np.ndim(arrays.source_label) else 0
    if (source, target) != tuple(examples) or labels != source:
        raise ValueError(
            f"expected arrays of {examples[0]} source and {examples[1]} target examples, got "
            f"{source} images with {labels} labels, and {target}"
        )
    labels = 0 if arrays.target_label is None else len(arrays.target_label)
    if labels != target and (labels or labelled is not None):
        raise ValueError(
            f"expected a label of each of {target} target examples (-1 where it is not known), "
            f"got {labels}: give target_label"
        )
    if not labels:
        return
    known = np.asarray(arrays.target_label) >= 0  # JAX keeps what it has copied to the host
    if labelled is None and known.any():
        raise ValueError(
            f"expected no labels of the target, got {known.sum()}: leave out target_label, or put "
            "the examples to train with first and give labelled"
        )
    if labelled is not None and not known[: labelled[0]].all():
        raise ValueError(
            f"expected a label of each of the first {labelled[0]} target examples, got "
            f"{known[: labelled[0]].sum()}: put the labelled examples first"
        )


def multiples(size: int, parts: int) -> str:
    """Returns in words the nearest sizes of a batch that split into so many equal parts.

    >>> multiples(64, 3)
    '63 or 66'
    """
    below, above = size - size % parts, size + -size % parts
    return f"{below} or {above}" if below else str(above)


def gather(
    arrays: DomainArrays,
    source: chex.Array,
    target: chex.Array,
    labelled: tuple[int, int] | None = None,
) -> DomainBatch:
    """Returns the batch of the given examples, as stored: no scaling, no change of dtype.

    Args:
      arrays: The data sets.
      source: Indices of source examples, ``[source_batch]``.
      target: Indices of target examples, ``[target_batch]``.
      labelled: As in ``batch_indices``: no other example of the target keeps its label. None:
        all do.

    Returns:
      The batch; its target labels are those of ``arrays``, None where that has none.
    """
    target_label = None
    if arrays.target_label is not None:
        target_label = jnp.take(arrays.target_label, target, axis=0)
        if labelled is not None:
            if jnp.issubdtype(target_label.dtype, jnp.unsignedinteger):
                target_label = target_label.astype(jnp.int32)  # unsigned numbers have no -1
            target_label = jnp.where(target < labelled[0], target_label, -1)

    def take(images, rows):
        return jax.tree.map(lambda a: jnp.take(a, rows, axis=0), images)

    return DomainBatch(
        source_image=take(arrays.source_image, source),
        source_label=jnp.take(arrays.source_label, source, axis=0),
        target_image=take(arrays.target_image, target),
        target_label=target_label,
    )
