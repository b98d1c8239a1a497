"""Checks of what the library is called with: each raises before anything is compiled.

Values are checked wherever they are known: in NumPy arrays, and in JAX arrays outside of a trace.
Under a trace an array has a type and no values. There a ``LabelWatch`` checks the data sets that a
program was called with.
"""

import contextlib
import contextvars
import math
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = [
    "LabelWatch",
    "check_count",
    "check_domains",
    "check_finite",
    "check_fits",
    "check_images",
    "check_key",
    "check_kinds",
    "check_labels",
    "check_number",
    "check_numbers",
    "check_pair",
    "check_real",
    "check_scaled",
    "check_weights",
    "count_examples",
    "known_values",
]

_SHOWN = 4  # shapes in an error


def known_values(x: Any) -> np.ndarray | None:
    """Returns the values of an array; None where this process does not know them yet."""
    if isinstance(x, jax.core.Tracer | jax.ShapeDtypeStruct):
        return None
    if isinstance(x, jax.Array) and not (x.is_fully_addressable or x.is_fully_replicated):
        return None
    return np.asarray(x)


def check_labels(labels: Any, classes: int | None = None, *, name: str = "labels") -> None:
    """Raises unless labels are the numbers of classes, or -1 where they are not known.

    >>> check_labels(np.array([0, 3, 10, -1]), 10)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ValueError: labels[2] is 10: expected 0 to 9, or -1 where the label is not known...

    Args:
      labels: Any shape. Under a trace, where they have no values, their type is checked, and those
        of 32 or 64 bits must be signed.
      classes: Number of classes; None for any.
      name: What the caller calls them.

    Raises:
      TypeError: They are not integers.
      ValueError: One is no class and not -1.
    """
    values = known_values(labels)
    watch = _WATCH.get()
    watched = False
    if values is None and watch is not None:
        watched = watch.check(labels, classes)  # names the data set and the example
    dtype = labels.dtype if values is None else values.dtype
    if not jnp.issubdtype(dtype, jnp.integer):
        raise TypeError(
            f"{name} must be integers, got {dtype}{_no_integer(values, name)}: pass the number of "
            "each example's class, or give make_update_step an objective for other labels"
        )
    if values is None and not watched and dtype in (jnp.uint32, jnp.uint64):
        raise TypeError(
            f"{name} must fit int32, got {dtype}, whose values a trace cannot check: call "
            "check_labels on them and pass labels.astype(np.int32)"
        )
    if values is not None:
        last = np.iinfo(np.int32).max if classes is None else classes - 1
        unknown = "-1 where the label is not known or is another class"
        expected = f"0 to {last}, or {unknown}"
        if classes is not None and values.size and (values.min(), values.max()) == (1, classes):
            expected += f"; they count from 1, so pass {name} - 1"
        _check_range(values, -1, last, name, expected)


def check_domains(domains: Any, *, name: str = "domains") -> None:
    """Raises unless domains are 0 for source and 1 for target, of any type of numbers.

    Args:
      domains: Any shape. Under a trace, where they have no values, nothing is checked.
      name: What the caller calls them.

    Raises:
      ValueError: One is neither 0 nor 1.
    """
    values = known_values(domains)
    if values is not None:
        wrong = (values != 0) & (values != 1)
        _refuse(values, wrong, name, "0 (source) or 1 (target)")


def check_finite(x: Any, name: str) -> None:
    """Raises where a number is NaN or infinite.

    >>> check_finite(np.array([[0.0, np.nan]]), "features")
    Traceback (most recent call last):
    ...
    ValueError: features[0, 1] is nan: expected finite numbers; did a training diverge?

    Args:
      x: Numbers of any shape. Under a trace, where they have no values, their type is checked.
      name: What the caller calls them.

    Raises:
      TypeError: They are no real numbers.
      ValueError: One is not finite.
    """
    check_real(x, name)
    values = known_values(x)
    if values is not None:
        _refuse(values, ~np.isfinite(values), name, "finite numbers; did a training diverge?")


def check_real(x: Any, name: str) -> None:
    """Raises unless numbers of any shape are real; NaN is.

    Args:
      x: They; may be traced.
      name: What the caller calls them.

    Raises:
      TypeError: They are no real numbers.
    """
    dtype = _dtype(x)
    if not (_is_real(dtype) or jnp.issubdtype(dtype, np.bool_)):
        raise TypeError(f"{name} must be real numbers, got {dtype}")


def check_weights(weights: Any, shape: tuple[int, ...], *, name: str = "weights") -> None:
    """Raises unless there is a weight, a finite number of at least 0, for each example.

    Args:
      weights: Under a trace, where they have no values, their type and shape are checked.
      shape: The shape that they should have.
      name: What the caller calls them.

    Raises:
      TypeError: They are no numbers.
      ValueError: There are fewer or more, or one is negative, infinite or NaN.
    """
    if np.shape(weights) != tuple(shape):
        raise ValueError(
            f"expected one weight for each example {list(shape)}, got {name} "
            f"{list(np.shape(weights))}"
        )
    values, dtype = known_values(weights), _dtype(weights)
    if not (_is_real(dtype) or jnp.issubdtype(dtype, np.bool_)):
        raise TypeError(f"{name} must be numbers, got {dtype}: pass float32, 0 for padding")
    if values is not None:
        wrong = ~((values >= 0) & (values < np.inf))
        _refuse(values, wrong, name, "0 or more, and finite")


def check_images(images: Any, name: str = "images", *, empty: bool = False) -> int:
    """Returns the number of examples; raises unless images are real numbers that are finite.

    Args:
      images: An array, or a pytree of arrays where a network has several inputs. Values are
        checked in NumPy arrays only.
      name: What the caller calls them.
      empty: Whether there may be no example.

    Raises:
      TypeError: They are no numbers.
      ValueError: There is no example, the arrays have different numbers of them, or a value is
        not finite.
    """
    examples = count_examples(images, name)
    if not examples and not empty:
        raise ValueError(f"{name} has no examples: expected at least one")
    for path, leaf in jax.tree_util.tree_leaves_with_path(images):
        dtype, place = _dtype(leaf), f"{name}{jax.tree_util.keystr(path)}"
        if not (_is_real(dtype) or jnp.issubdtype(dtype, np.bool_)):
            raise TypeError(
                f"{place} must be real numbers, got {dtype}: pass pixels as uint8 or float32"
            )
        if isinstance(leaf, np.ndarray) and jnp.issubdtype(dtype, jnp.floating):
            _refuse(leaf, ~np.isfinite(leaf), place, "finite numbers")
            check_fits(leaf, place)
    return examples


def check_kinds(examples: Any, name: str) -> None:
    """Raises where an array is of a kind whose conversion would lose what it says.

    Args:
      examples: An array, or a pytree of arrays.
      name: What the caller calls them.

    Raises:
      TypeError: One is sparse, or has masked values.
    """
    for leaf in jax.tree.leaves(examples):
        if np.ma.is_masked(leaf):
            raise TypeError(
                f"{name} must be plain arrays, got masked values: pass {name}.filled(value), or "
                "leave such examples out"
            )
        if hasattr(leaf, "toarray"):  # SciPy's, which NumPy takes for one object
            raise TypeError(f"{name} must be dense arrays, got a sparse one: pass its .toarray()")


def check_scaled(examples: Any, name: str) -> None:
    """Raises where examples are uint8, which no ``preprocess`` turns into floats.

    Args:
      examples: An array, or a pytree of arrays, as stored.
      name: What the caller calls them.

    Raises:
      ValueError: An array is uint8.
    """
    if any(getattr(leaf, "dtype", None) == np.uint8 for leaf in jax.tree.leaves(examples)):
        raise ValueError(
            f"{name} are uint8, 0 to 255: pass preprocess=lambda x: x / 255 - 0.5, say, to the "
            "training and to predict, or lambda x: x for a G_f that takes them"
        )


def check_key(key: Any, name: str = "key", *, many: bool = False) -> None:
    """Raises unless it is a PRNG key, from ``jax.random.key``.

    Args:
      key: May be traced. The arrays of ``jax.random.PRNGKey`` are keys too.
      name: What the caller calls it.
      many: Whether it should be several, ``[K]``.

    Raises:
      TypeError: It is none, or another number of them.
    """
    got = f"{key!r:.40}"
    if isinstance(key, jax.Array | np.ndarray):
        typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
        if (typed or key.dtype == np.uint32) and key.ndim == many + (not typed):
            return
        got = f"{key.dtype}{list(key.shape)}"
    expected, remedy = "one PRNG key", "jax.random.key(0), say"
    if many:
        expected, remedy = "PRNG keys [K]", "K of jax.random.split"
    raise TypeError(f"{name} must be {expected}, got {got}: pass {remedy}")


def check_count(value: Any, name: str, least: int = 1) -> int:
    """Returns a whole number of at least ``least``; raises for anything else.

    Args:
      value: An integer of Python, NumPy or JAX.
      name: What the caller calls it.
      least: The smallest that it may be.

    Raises:
      TypeError: It is no integer.
      ValueError: It is smaller.
    """
    try:
        count = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be a whole number, got {value!r:.40}") from None
    if count < least:
        raise ValueError(f"{name} must be at least {least}, got {count}")
    return count


def check_pair(value: Any, name: str) -> None:
    """Raises unless it is a pair of whole numbers, one for each domain.

    Args:
      value: What should be (source, target).
      name: What the caller calls it.

    Raises:
      TypeError: It is no pair, or not of integers.
    """
    if not (
        isinstance(value, tuple | list)
        and len(value) == 2
        and all(isinstance(n, int | np.integer) and not isinstance(n, bool) for n in value)
    ):
        raise TypeError(
            f"{name} must be two whole numbers, (source, target), got {value!r:.40}: "
            f"pass {name}=(64, 64), say"
        )


def check_number(
    value: Any, name: str, *, below: float = math.inf, positive: bool = False, remedy: str = ""
) -> None:
    """Raises unless it is a real number that is not negative, and finite.

    Args:
      value: A number or an array of shape ``[]``. Under a trace, where it has no value, its type
        and shape are checked.
      name: What the caller calls it.
      below: What it must be smaller than.
      positive: Whether 0 is refused too.
      remedy: What to pass instead.

    Raises:
      TypeError: It is no number.
      ValueError: It is out of range.
    """
    expected = f"{name} must be a number, {'positive' if positive else '0 or more'} and "
    expected += "finite" if below == math.inf else f"below {below:g}"
    if remedy:
        remedy = f": {remedy}"
    if not _is_real(_dtype(value)) or np.shape(value) != ():
        raise TypeError(f"{expected}, got {value!r:.60}{remedy}")
    number = known_values(value)
    if number is not None and not ((number > 0 if positive else number >= 0) and number < below):
        raise ValueError(f"{expected}, got {number}{remedy}")


def check_numbers(**values: Any) -> None:
    """Raises what ``check_number`` does for each of some values, by their names."""
    for name, value in values.items():
        check_number(value, name)


def check_fits(x: Any, name: str) -> None:
    """Raises where JAX would silently keep other numbers than NumPy has, cut to 32 bits.

    Args:
      x: An array.
      name: What the caller calls it.

    Raises:
      TypeError: An array of NumPy holds no numbers.
      ValueError: A number does not fit.
    """
    if not isinstance(x, np.ndarray):
        return
    if x.dtype.kind not in "biufcV":  # V: bfloat16 and other types of ml_dtypes
        raise TypeError(f"{name} must be numbers, got an array of {x.dtype}")
    kept = jax.dtypes.canonicalize_dtype(x.dtype)
    if kept.itemsize == x.dtype.itemsize:
        return
    if np.issubdtype(x.dtype, np.integer):
        info = np.iinfo(kept)
        _check_range(x, info.min, info.max, name, f"{info.min} to {info.max} ({kept})")
    elif np.issubdtype(x.dtype, np.floating):
        most = np.finfo(kept).max
        _refuse(x, np.isfinite(x) & (np.abs(x) > most), name, f"at most {most:.3g} ({kept})")


def _dtype(x):
    """Returns the dtype of an array or of a number."""
    return x.dtype if hasattr(x, "dtype") else np.asarray(x).dtype


def _is_real(dtype):
    return jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)


def _no_integer(values, name):
    """Returns which value it is, in brackets, that is not an integer."""
    if values is None or not values.size or not np.issubdtype(values.dtype, np.floating):
        return ""
    with np.errstate(invalid="ignore"):
        wrong = values != np.floor(values)
    return f" ({_first(values, wrong if wrong.any() else np.ones_like(wrong), name)})"


def _check_range(values, first, last, name, expected):
    _refuse(values, (values < first) | (values > last), name, expected)


def _refuse(values, wrong, name, expected):
    if wrong.any():
        others = f" ({wrong.sum()} of {wrong.size} are others)" if wrong.sum() > 1 else ""
        raise ValueError(f"{_first(values, wrong, name)}: expected {expected}{others}")


def _first(values, wrong, name):
    place = tuple(int(i) for i in np.argwhere(wrong)[0])
    where = f"[{', '.join(map(str, place))}]" if place else ""
    return f"{name}{where} is {values[place]}"


class LabelWatch:
    """Checks the labels of a program against the number of classes that its objective knows.

    A program is compiled for a make_update that may hold any objective, so it does not know
    whether its labels are classes, nor how many there are. The objective does, while it is traced:
    there the labels of a batch stand for those of the data set. A program is traced once, so the
    numbers are kept for the calls after it.
    """

    def __init__(self):
        """Starts with a program that was not traced yet."""
        self._labels: dict[str, Any] = {}  # of the call, by name
        self._traced: dict[str, Any] = {}  # of the batch under the trace
        self._classes: dict[str, int | None] = {}  # of labels that are classes
        self._after = ""

    @contextlib.contextmanager
    def over(self, labels: dict[str, Any], after: str = ""):
        """Checks the labels of a call of the program.

        Args:
          labels: They, by name; None for no labels.
          after: What was done to them, for the error.
        """
        self._labels, self._after = labels, after
        token = _WATCH.set(self)
        try:
            for name, classes in self._classes.items():
                self._check(name, classes)
            yield
        finally:
            _WATCH.reset(token)
            self._labels = self._traced = {}

    @staticmethod
    def trace(**labels: Any) -> None:
        """Says which labels under the trace, by the same names, are those of the call."""
        watch = _WATCH.get()
        if watch is not None:
            watch._traced = labels

    def check(self, labels: Any, classes: int | None) -> bool:
        """Raises what ``check_labels`` does for the data set that labels under a trace are of.

        Returns whether they are of one of the call.
        """
        names = [name for name, traced in self._traced.items() if traced is labels]
        for name in names:
            self._classes[name] = classes
            self._check(name, classes)
        return bool(names)

    def _check(self, name, classes):
        labels = self._labels.get(name)
        if labels is not None and known_values(labels) is not None:
            check_labels(labels, classes, name=name + self._after)


_WATCH: contextvars.ContextVar[LabelWatch | None] = contextvars.ContextVar("labels", default=None)


def count_examples(tree: Any, name: str = "images") -> int:
    """Returns the number of examples, the size of the first axis of all arrays of a tree.

    Args:
      tree: An array, or a pytree of arrays where a network has several inputs.
      name: What the caller calls it.

    Raises:
      TypeError: One is sparse, or has masked values.
      ValueError: The arrays have different numbers of examples, or there is none.
    """
    check_kinds(tree, name)
    sizes = {np.shape(leaf)[0] if np.ndim(leaf) else -1 for leaf in jax.tree.leaves(tree)}
    if len(sizes) != 1 or -1 in sizes:
        shapes = [str(np.shape(leaf)) for leaf in jax.tree.leaves(tree)]
        got = ", ".join(shapes[:_SHOWN]) + (", ..." if len(shapes) > _SHOWN else "") or "no arrays"
        lists = ": pass lists as np.asarray(list)" if isinstance(tree, list) else ""
        raise ValueError(
            f"{name} must be arrays with one first axis, that of the examples, got {got}{lists}"
        )
    return sizes.pop()
