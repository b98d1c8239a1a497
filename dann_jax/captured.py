"""What functions and models depend on besides their arguments: the key of a compiled program.

A compiled program keeps the values that a function found when it was traced: its globals, what it
closes over, the attributes of a method's object. ``remembered`` keeps a program for as long as
these are equal, and no longer.
"""

import collections
import dataclasses
import dis
import functools
import hashlib
import logging
import sys
import types
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np

__all__ = ["captured", "remembered"]

MOST = 20_000  # values in a key; beyond, functions and models are told apart by identity
LOOKED_UP = "LOAD_GLOBAL", "LOAD_NAME"
RULES = "fun", "fwd", "bwd", "jvp"
COMPARED = {"builtins", "jax", "jaxlib", "numpy"}  # their objects compare by value, and stay
# Their functions depend on no global that a user changes.
LIBRARIES = {"chex", "dann_jax", "flax", "jax", "jaxlib", "numpy", "optax"}
LIBRARIES |= sys.stdlib_module_names
_WRAPPERS = type(jax.jit(len)) | type(functools.lru_cache(len))


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
        self._count = 0

    def key(self, x):
        self._count += 1
        if self._count > MOST:
            raise _TooManyError
        if x is None or isinstance(x, bool | int | str | bytes | types.CodeType):
            return type(x), x
        if isinstance(x, float | complex):
            return type(x), repr(x)
        if id(x) in self._places:  # a cycle, or what was seen before
            return "seen", self._places[id(x)]
        self._places[id(x)] = len(self._places)
        self._kept.append(x)
        return self._of_object(x)

    def _all(self, values):
        return tuple(map(self.key, values))

    def _of_object(self, x):
        if isinstance(x, jax.Array):
            return _Same(x)
        if isinstance(x, np.ndarray | np.generic):
            return self._of_numbers(x)
        if isinstance(x, types.ModuleType):
            return "module", x.__name__
        if isinstance(x, type):
            return x, self._of_class(x)
        if isinstance(x, types.MethodType):
            return type(x), self._all((x.__self__, x.__func__))
        if isinstance(x, types.FunctionType):
            return self._of_function(x)
        if isinstance(x, functools.partial):
            return type(x), self._all((x.func, x.args, x.keywords))
        if isinstance(x, logging.Logger):  # reaches all others
            return _Same(x)
        if isinstance(x, bytearray):
            return bytearray, bytes(x)
        if isinstance(x, _WRAPPERS):
            return type(x), self.key(x.__wrapped__)
        content = self._of_content(x)
        if type(x).__module__.startswith("flax.nnx") and hasattr(x, "get_value"):  # a Variable
            return type(x), self.key(x.get_value())
        if content is None and _is_of_library(type(x), COMPARED) and _compares(x):
            return type(x), x  # a dtype, a device, a sharding
        attributes = self._attributes(x)
        if content is None and not attributes and not hasattr(x, "__dict__"):
            return (type(x), x) if _compares(x) else _Same(x)
        key = self._all(attributes), self._all(attributes.values()), self._of_class(type(x))
        return type(x), content, key

    def _of_numbers(self, x):
        if isinstance(x, np.ma.MaskedArray):
            return "masked", self._of_numbers(x.data), self._of_numbers(np.asarray(x.mask))
        if x.dtype == object:
            return "objects", x.shape, self._all(x.ravel().tolist())
        content = hashlib.sha256(np.ascontiguousarray(x)).digest()
        return "array", x.shape, str(x.dtype), content

    def _of_content(self, x):
        """Returns the key of what a container holds, None for what is none."""
        if isinstance(x, tuple | list | collections.deque):
            return self._all(x)
        if isinstance(x, set | frozenset):
            return frozenset(map(self.key, x))
        if isinstance(x, Mapping):
            return self._all(x.keys()), self._all(x.values())
        if isinstance(x, slice):
            return self._all((x.start, x.stop, x.step))
        return None

    @staticmethod
    def _attributes(x):
        """Returns the attributes of an object by name."""
        if _is_of_library(type(x), {"jax"}):  # custom_vjp and custom_jvp: the others are of jit
            return {name: getattr(x, name) for name in RULES if hasattr(x, name)}
        if isinstance(x, nn.Module):  # the others say where it is
            names = [f.name for f in dataclasses.fields(x) if f.name not in ("parent", "name")]
        else:
            names = list(getattr(x, "__dict__", ()))
            for each in type(x).__mro__:
                slots = vars(each).get("__slots__", ())
                names += (slots,) if isinstance(slots, str) else slots
        return {name: getattr(x, name) for name in names if hasattr(x, name)}

    def _of_function(self, f):
        cells = [cell.cell_contents for cell in f.__closure__ or () if _is_filled(cell)]
        attributes = vars(f)
        key = f.__code__, self._all((f.__defaults__, f.__kwdefaults__, *cells))
        key += (self._all(attributes), self._all(attributes.values()))
        if (f.__globals__.get("__name__") or "").partition(".")[0] in LIBRARIES:
            return key
        names = sorted(_names(f.__code__))
        found = {n: f.__globals__[n] for n in _globals(f.__code__) if n in f.__globals__}
        modules = [each for each in (*found.values(), *cells) if isinstance(each, types.ModuleType)]
        for module in modules:  # and those in them
            if module.__name__.partition(".")[0] not in LIBRARIES:
                inside = {n: vars(module)[n] for n in names if n in vars(module)}
                inside = {f"{module.__name__}.{name}": each for name, each in inside.items()}
                modules += [
                    each
                    for name, each in inside.items()
                    if isinstance(each, types.ModuleType) and name not in found
                ]
                found |= inside
        return *key, tuple(found), self._all(found.values())

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


def _compares(x):
    return type(x).__eq__ is not object.__eq__ and type(x).__hash__ is not None


def _is_of_library(x, libraries=LIBRARIES):
    return (getattr(x, "__module__", None) or "").partition(".")[0] in libraries


def _is_filled(cell):
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


@functools.lru_cache(maxsize=1024)
def _globals(code):
    """Returns the names of globals that code, and code within it, looks up."""
    names = {each.argval for each in dis.get_instructions(code) if each.opname in LOOKED_UP}
    inner = (each for each in code.co_consts if isinstance(each, types.CodeType))
    return tuple(sorted(names.union(*map(_globals, inner))))


def _names(code):
    """Returns the names that code, and code within it, looks up."""
    inner = (each for each in code.co_consts if isinstance(each, types.CodeType))
    return set(code.co_names).union(*map(_names, inner))
