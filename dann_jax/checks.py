"""Checks of labels, domains and sizes: each raises before anything is compiled.

Values are checked wherever they are known: in NumPy arrays, and in JAX arrays outside of a trace.
Under a trace an array has a type and no values. There a ``LabelWatch`` checks the data sets that a
program was called with.
"""

import contextlib
import contextvars
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = [
    "LabelWatch",
    "check_domains",
    "check_finite",
    "check_fits",
    "check_labels",
    "count_examples",
    "known_values",
]


def known_values(x: Any) -> np.ndarray | None:
    """Returns the values of an array; None where this process does not know them yet."""
    if isinstance(x, jax.core.Tracer | jax.ShapeDtypeStruct):
        return None
    if isinstance(x, jax.Array) and not (x.is_fully_addressable or x.is_fully_replicated):
        return None
    return np.asarray(x)


def check_labels(labels: Any, classes: int | None = None, *, name: str = "labels") -> None:
    """Raises unless labels are the numbers of classes, or -1 where they are not known.

    >>> check_labels(np.array([0, 3, 10, -1]), 10)
    Traceback (most recent call last):
    ...
    ValueError: labels[2] is 10: expected 0 to 9, or -1 where the label is not known

    Args:
      labels: Any shape. Under a trace, where they have no values, their type is checked.
      classes: Number of classes; None for any.
      name: What the caller calls them.

    Raises:
      TypeError: They are not integers.
      ValueError: One is no class and not -1.
    """
    values = known_values(labels)
    watch = _WATCH.get()
    if values is None and watch is not None:
        watch.check(labels, classes)  # names the data set and the example
    dtype = labels.dtype if values is None else values.dtype
    if not jnp.issubdtype(dtype, jnp.integer):
        raise TypeError(
            f"{name} must be integers, got {dtype}{_no_integer(values, name)}: pass the number of "
            "each example's class, or give make_update_step an objective for other labels"
        )
    if values is not None:
        last = np.iinfo(np.int32).max if classes is None else classes - 1
        _check_range(values, -1, last, name, f"0 to {last}, or -1 where the label is not known")


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
      x: Numbers of any shape. Under a trace, where they have no values, nothing is checked.
      name: What the caller calls them.

    Raises:
      ValueError: One is not finite.
    """
    values = known_values(x)
    if values is not None:
        _refuse(values, ~np.isfinite(values), name, "finite numbers; did a training diverge?")


def check_fits(x: Any, name: str) -> None:
    """Raises where JAX would silently keep other integers than NumPy has, cut to 32 bits.

    Args:
      x: An array.
      name: What the caller calls it.

    Raises:
      ValueError: A number does not fit.
    """
    if isinstance(x, np.ndarray) and np.issubdtype(x.dtype, np.integer):
        kept = np.iinfo(jax.dtypes.canonicalize_dtype(x.dtype))
        if kept.bits < 8 * x.dtype.itemsize:
            _check_range(x, kept.min, kept.max, name, f"{kept.min} to {kept.max} ({kept.dtype})")


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

    @contextlib.contextmanager
    def over(self, **labels: Any):
        """Checks the labels of a call of the program, by their names; None for no labels."""
        self._labels = labels
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

    def check(self, labels: Any, classes: int | None) -> None:
        """Raises what ``check_labels`` does for the data set that labels under a trace are of."""
        for name, traced in self._traced.items():
            if traced is labels:
                self._classes[name] = classes
                self._check(name, classes)

    def _check(self, name, classes):
        labels = self._labels.get(name)
        if labels is not None and known_values(labels) is not None:
            check_labels(labels, classes, name=name)


_WATCH: contextvars.ContextVar[LabelWatch | None] = contextvars.ContextVar("labels", default=None)


def count_examples(tree: Any, name: str = "images") -> int:
    """Returns the number of examples, the size of the first axis of all arrays of a tree.

    Args:
      tree: An array, or a pytree of arrays where a network has several inputs.
      name: What the caller calls it.

    Raises:
      ValueError: The arrays have different numbers of examples, or there is none.
    """
    sizes = {np.shape(leaf)[0] if np.ndim(leaf) else -1 for leaf in jax.tree.leaves(tree)}
    if len(sizes) != 1 or -1 in sizes:
        got = ", ".join(str(np.shape(leaf)) for leaf in jax.tree.leaves(tree)) or "no arrays"
        raise ValueError(
            f"{name} must be arrays with one first axis, that of the examples, got {got}"
        )
    return sizes.pop()
