"""What functions and models depend on besides their arguments: the key of a compiled program.

A compiled program keeps the values that a function found when it was traced: its globals, what it
closes over, the attributes of a method's object. ``remembered`` keeps a program for as long as
these are equal, and no longer.
"""

import collections
import dataclasses
import functools
import hashlib
import types
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import jax
import numpy as np

__all__ = ["captured", "remembered"]

MOST = 20_000  # values in a key; beyond, functions and models are told apart by identity
# Their functions depend on no global that a user changes.
LIBRARIES = {"builtins", "chex", "dann_jax", "flax", "functools", "jax", "jaxlib", "numpy", "optax"}


def remembered(most: int) -> Callable[[Callable], Callable]:
    """Returns a decorator like ``functools.lru_cache`` for functions of functions and models.

    Args:
      most: How many results are kept.
    """

    def decorate(function):
        @functools.lru_cache(maxsize=most)
        def of(call):
            return function(*call.arguments)

        @functools.wraps(function)
        def wrapper(*arguments):
            return of(_Call(arguments))

        return wrapper

    return decorate


def captured(value: Any) -> Hashable:
    """Returns a key that is equal for functions and models that do the same.

    >>> def times(scale):
    ...     return lambda x: scale * x
    >>> captured(times(2.0)) == captured(times(2.0))
    True
    >>> captured(times(2.0)) == captured(times(3.0))
    False

    Args:
      value: Functions, methods, models, arrays, numbers and containers of these. NumPy arrays count
        by their numbers, arrays of JAX, which do not change, and what is none of these by identity.
    """
    try:
        key = _Walk().key(value)
        hash(key)
    except (_TooManyError, TypeError, RecursionError):
        return tuple(map(_Same, value)) if isinstance(value, tuple) else _Same(value)
    return key


class _Call:
    """Arguments that are equal where what they depend on is."""

    def __init__(self, arguments):
        self.arguments, self._key = arguments, captured(arguments)

    def __eq__(self, other):
        return self._key == other._key

    def __hash__(self):
        return hash(self._key)


class _Same:
    """A value that equals itself alone."""

    def __init__(self, value):
        self._value = value

    def __eq__(self, other):
        return isinstance(other, _Same) and self._value is other._value

    def __hash__(self):
        return id(self._value)


class _TooManyError(Exception):
    """There are more values than a key should have."""


class _Walk:
    def __init__(self):
        self._places: dict[int, int] = {}  # of what is under way or done, by identity
        self._kept: list[Any] = []  # so that no identity is given anew

    def key(self, x):
        if x is None or isinstance(x, bool | int | str | bytes | types.CodeType):
            return type(x), x
        if isinstance(x, float | complex):
            return type(x), repr(x)
        if id(x) in self._places:  # a cycle, or what was seen before
            return "seen", self._places[id(x)]
        if len(self._places) >= MOST:
            raise _TooManyError
        self._places[id(x)] = len(self._places)
        self._kept.append(x)
        return self._of_object(x)

    def _all(self, values):
        return tuple(map(self.key, values))

    def _of_object(self, x):
        if isinstance(x, np.ndarray | np.generic) and x.dtype != object:
            content = hashlib.sha256(np.ascontiguousarray(x)).digest()
            return "array", x.shape, x.dtype.str, content
        if isinstance(x, jax.Array):
            return _Same(x)
        if isinstance(x, tuple | list | collections.deque):
            return type(x), self._all(x)
        if isinstance(x, Mapping):
            return type(x), self._all(x.keys()), self._all(x.values())
        if isinstance(x, types.ModuleType):
            return "module", x.__name__
        if isinstance(x, type):
            return x, self._of_class(x)
        if isinstance(x, functools.partial):
            return type(x), self._all((x.func, x.args, x.keywords))
        if isinstance(x, types.MethodType):
            return type(x), self._all((x.__self__, x.__func__))
        if isinstance(x, types.FunctionType):
            return self._of_function(x)
        if hasattr(x, "__wrapped__") and not isinstance(x, type):  # of jax.jit, say
            return type(x), self.key(x.__wrapped__)
        if dataclasses.is_dataclass(x):  # modules of Linen too, but for where they are
            names = [f.name for f in dataclasses.fields(x) if f.name not in ("parent", "name")]
            return type(x), self._all(getattr(x, name, None) for name in names)
        if type(x).__eq__ is not object.__eq__ and type(x).__hash__ is not None:
            return type(x), x
        if hasattr(x, "__dict__") and not isinstance(x, types.BuiltinFunctionType):
            return type(x), self.key(vars(x)), self._of_class(type(x))
        return _Same(x)

    def _of_class(self, x):
        """Returns the key of the attributes and methods of a class and of those that it is of."""
        names, values = [], []
        for some in x.__mro__:
            for name, each in () if _is_of_library(some) else vars(some).items():
                each = getattr(each, "__func__", getattr(each, "fget", each))
                is_method = isinstance(each, types.FunctionType)
                if is_method or not (name.startswith("__") or hasattr(each, "__get__")):
                    names.append(name)
                    values.append(each)
        return tuple(names), self._all(values)

    def _of_function(self, f):
        cells = [cell.cell_contents for cell in f.__closure__ or () if _is_filled(cell)]
        key = f.__code__, self._all((f.__defaults__, f.__kwdefaults__, *cells))
        if _is_of_library(f):
            return key
        names = sorted(_names(f.__code__))
        found = {name: f.__globals__[name] for name in names if name in f.__globals__}
        both = *found.values(), *cells
        for module in [each for each in both if isinstance(each, types.ModuleType)]:
            if module.__name__.partition(".")[0] not in LIBRARIES:
                inside = {n: vars(module)[n] for n in names if n in vars(module)}
                found |= {f"{module.__name__}.{name}": each for name, each in inside.items()}
        return *key, tuple(found), self._all(found.values())


def _is_of_library(x):
    return (getattr(x, "__module__", None) or "").partition(".")[0] in LIBRARIES


def _is_filled(cell):
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def _names(code):
    """Returns the names that code, and code within it, looks up."""
    inner = (each for each in code.co_consts if isinstance(each, types.CodeType))
    return set(code.co_names).union(*map(_names, inner))
