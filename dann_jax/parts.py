"""One form for the parts of a model, G_f, G_y and G_d, whichever library they come from.

``networks.DannModel`` adapts its parts once, when it is made; training and evaluation call them in
this form alone.
"""

import contextlib
import contextvars
import dataclasses
import functools
import inspect
import math
import sys
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import chex
import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dann_jax.objective import SOURCE

__all__ = ["Part", "PureFunction", "accepted", "adapt", "equinox_part", "nnx_part"]

# Names by which modules ask whether they are trained, and the value that means that they are.
SWITCHES = {
    "train": True,
    "training": True,
    "is_training": True,
    "deterministic": False,
    "use_running_average": False,
    "inference": False,
}
_OTHER_STREAMS = 0x5EED  # folded into the key of dropout, for the random streams beside it


class PureFunction(NamedTuple):
    """A part given by plain functions, of any library."""

    init: Callable[[chex.PRNGKey, Any], Any]  # (key, x) -> theta
    apply: Callable[[Any, Any], Any]  # (theta, x) -> output


class Part(Protocol):
    """G_f, G_y or G_d in the form in which training and evaluation call it."""

    @property
    def uses_domain(self) -> bool:
        """Whether the output may depend on the domain."""

    def init(self, key: chex.PRNGKey, x: Any) -> tuple[Any, dict[str, Any]]:
        """Returns the parameters and the batch statistics to start from."""

    def apply(
        self,
        theta: Any,
        batch_stats: dict[str, Any],
        x: Any,
        *,
        key: chex.PRNGKey | None = None,
        train: bool = False,
        domain: int | None = None,
        axis_name: str | None = None,
        examples: int | None = None,
        layers: dict[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Returns the output and the batch statistics after it, which move in training only.

        ``examples`` is how many the larger domain in ``x`` has on this device, if it is known. The
        outputs of the part's layers are added to ``layers``, by their paths.
        """


# --- plain functions ---------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _FunctionPart:
    """The part of a ``PureFunction``: no batch statistics, no switch, one layer.

    Parameters may be the state of an NNX module with random streams, as ``nnx.split`` gives it.
    These are no parameters: each call in training gets new ones.
    """

    function: PureFunction

    uses_domain = False

    def init(self, key, x):
        theta, _ = _without_streams(self.function.init(key, x))
        return theta, {}

    def apply(self, theta, batch_stats, x, *, key=None, **_):
        return self.function.apply(self._with_streams(theta, x, key), x), batch_stats

    def _with_streams(self, theta, x, key):
        if not _is_nnx_state(theta):
            return theta
        _, streams = _without_streams(jax.eval_shape(self.function.init, jax.random.key(0), x))
        if not jax.tree.leaves(streams):
            return theta
        if key is None:
            raise ValueError(
                "a PureFunction of an NNX module with dropout or other random streams cannot "
                "switch them off for predictions: pass dann_jax.nnx_part(module) in its place"
            )
        from flax import nnx

        return nnx.merge_state(theta, _seeded(streams, key))


def _is_nnx_state(theta):
    nnx = sys.modules.get("flax.nnx")  # who has such a state has imported it
    return nnx is not None and isinstance(theta, nnx.State)


def _without_streams(theta):
    """Returns the parameters of a PureFunction, and the random streams among them."""
    if not _is_nnx_state(theta):
        return theta, ()
    from flax import nnx

    theta, streams, others = nnx.split_state(theta, nnx.Param, nnx.RngState, ...)
    if jax.tree.leaves(others):
        names = ", ".join("/".join(map(str, path)) for path, _ in nnx.to_flat_state(others))
        raise TypeError(
            f"a PureFunction returns no state, but its NNX module has some ({names}): "
            "pass dann_jax.nnx_part(module) in its place"
        )
    return theta, streams


def _seeded(streams, key):
    """Returns NNX's random streams with a key of their own each, from the start."""
    leaves, structure = jax.tree.flatten(streams)
    return jax.tree.unflatten(
        structure,
        [
            jax.random.fold_in(key, i)
            if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
            else jnp.zeros(leaf.shape, leaf.dtype)
            for i, leaf in enumerate(leaves)
        ],
    )


# --- NNX ---------------------------------------------------------------------------------


def nnx_part(module: Any) -> Part:
    """Returns a Flax NNX module as a part of a model, with its batch statistics and dropout.

    In training ``deterministic`` and ``use_running_average`` are False in all of its layers, as by
    ``module.train()``, and outside of it True; a ``train``, ``domain`` or ``axis_name`` that its
    ``__call__`` declares is passed as to a Linen module. Its ``nnx.Param`` are the parameters,
    its other variables the state beside them (``batch_stats``). Each call has its own random
    keys. On several devices its batch statistics are those of each device, and their averages
    the running ones.

    Args:
      module: A function of ``nnx.Rngs`` that makes the module, so that each key has its own
        initialization, or a module, whose parameters are then those that training starts from.

    Raises:
      TypeError: It is neither.
    """
    from flax import nnx

    if isinstance(module, nn.Module) or not (isinstance(module, nnx.Module) or callable(module)):
        raise TypeError(
            f"expected an nnx.Module or a function rngs -> nnx.Module, got {type(module).__name__}"
            + (": a Linen module is a part as it is" if isinstance(module, nn.Module) else "")
        )
    return _NnxPart(_checked_nnx(module) if isinstance(module, nnx.Module) else module)


def _checked_nnx(module):
    """Returns an NNX module; raises where it is none, or not known how it is told of training."""
    from flax import nnx

    if not isinstance(module, nnx.Module):
        raise TypeError(
            f"expected a function rngs -> nnx.Module, got one that returns {type(module).__name__}"
        )
    accepted(module, {"train": False})
    return module


@dataclasses.dataclass(frozen=True)
class _NnxPart:
    module: Any  # or a function that makes it

    @functools.cached_property
    def _abstract(self):
        """The module without values."""
        from flax import nnx

        if isinstance(self.module, nnx.Module):
            return self.module
        return nnx.eval_shape(lambda: _checked_nnx(self.module(nnx.Rngs(0))))

    @property
    def uses_domain(self):
        return bool(accepted(self._abstract, {"domain": None}))

    def init(self, key, x):
        from flax import nnx

        del x  # NNX modules know the shape of their inputs
        module = self.module
        if not isinstance(module, nnx.Module):
            module = _checked_nnx(module(nnx.Rngs(key)))
        _, theta, _, state = _split(module)
        return nnx.to_pure_dict(theta), nnx.to_pure_dict(state)

    def apply(
        self,
        theta,
        batch_stats,
        x,
        *,
        key=None,
        train=False,
        domain=None,
        axis_name=None,
        examples=None,
        **_,
    ):
        from flax import nnx

        definition, *states = _split(self._abstract)
        params, streams, state = (jax.tree.map(lambda leaf: leaf, s) for s in states)  # copies
        nnx.replace_by_pure_dict(params, theta)
        nnx.replace_by_pure_dict(state, batch_stats)
        streams = _seeded(streams, jax.random.key(0) if key is None else key)
        module = nnx.merge(definition, params, streams, state)
        module.set_attributes(
            deterministic=not train, use_running_average=not train, raise_if_not_found=False
        )
        for _, each in nnx.iter_modules(module):
            for name, on in SWITCHES.items():
                if isinstance(vars(each).get(name), bool):
                    setattr(each, name, train == on)
        options = accepted(module, {"train": train, "domain": domain, "axis_name": axis_name})
        if not train:
            return module(x, **options), batch_stats
        checks = _LayerChecks(bool(SWITCHES.keys() & options), examples)
        with _checked_layers(module, checks):
            y = module(x, **options)
        return y, _like(nnx.to_pure_dict(_split(module)[3]), batch_stats)


_NNX_CHECKS: contextvars.ContextVar[Any] = contextvars.ContextVar("checks", default=None)


@contextlib.contextmanager
def _checked_layers(module, checks):
    """Has the layers of an NNX module checked where they are called.

    Linen has ``nn.intercept_methods`` for it. Here each layer is for a while of a class of its
    own, so that no other module and no other thread sees a change.
    """
    from flax import nnx

    layers = [(each, type(each)) for _, each in nnx.iter_modules(module) if _is_checked(each)]
    token = _NNX_CHECKS.set(checks)
    try:
        for layer, cls in layers:
            object.__setattr__(layer, "__class__", _checked_class(cls))
        yield
    finally:
        for layer, cls in layers:
            object.__setattr__(layer, "__class__", cls)
        _NNX_CHECKS.reset(token)


def _is_checked(layer):
    from flax import nnx

    return isinstance(layer, nnx.Dropout | nnx.BatchNorm) or hasattr(layer, "dropout_rate")


@functools.cache
def _checked_class(cls):
    """Returns a class of NNX layers that are checked where they are called."""
    from flax import nnx

    def checked(self, *args, **kwargs):
        checks = _NNX_CHECKS.get()
        if checks is not None:
            given = _given(self, args, kwargs)
            checks.check(self, cls.__name__, given, nnx.Dropout, nnx.BatchNorm)
        return cls.__call__(self, *args, **kwargs)

    checked.__signature__ = inspect.signature(cls.__call__)
    return type(cls.__name__, (cls,), {"__call__": checked, "__module__": cls.__module__})


def _like(new, old):
    """Returns those entries of a nested dict that another one has: others were sown."""
    if not isinstance(old, dict):
        return new
    return {name: _like(new[name], value) for name, value in old.items()}


def _split(module):
    """Returns NNX's definition, parameters, random streams and state, without what was sown."""
    from flax import nnx

    definition, theta, streams, _, state = nnx.split(
        module, nnx.Param, nnx.RngState, nnx.Intermediate, ...
    )
    return definition, theta, streams, state


# --- Equinox -----------------------------------------------------------------------------


def equinox_part(make: Callable[[chex.PRNGKey], Any]) -> Part:
    """Returns an Equinox module as a part of a model, with dropout.

    The module takes one example, as Equinox's do, and ``key`` if its ``__call__`` declares it. Its
    floating-point arrays are the parameters. In training ``inference`` is False in all of its
    layers, and outside of it True. It has no state: ``eqx.nn.BatchNorm`` does not fit,
    ``eqx.nn.LayerNorm`` does.

    Args:
      make: Function of a key that makes the module.

    Raises:
      TypeError: It is no function.
    """
    import equinox as eqx

    if isinstance(make, eqx.Module) or not callable(make):
        raise TypeError(f"expected a function key -> Equinox module, got {type(make).__name__}")
    return _EquinoxPart(make)


@dataclasses.dataclass(frozen=True)
class _EquinoxPart:
    make: Any
    uses_domain = False
    units_last = False  # Equinox's weights are [units, inputs], all others' [inputs, units]

    def init(self, key, x):
        import equinox as eqx

        return eqx.filter(self.make(key), eqx.is_inexact_array), {}

    def apply(self, theta, batch_stats, x, *, key=None, train=False, **_):
        import equinox as eqx

        fixed = eqx.filter(self.make(jax.random.key(0)), eqx.is_inexact_array, inverse=True)
        module = eqx.nn.inference_mode(eqx.combine(theta, fixed), value=not train)
        if "key" not in _declared(type(module))[0]:
            return jax.vmap(module)(x), batch_stats
        keys = jax.vmap(
            functools.partial(jax.random.fold_in, jax.random.key(0) if key is None else key)
        )
        each = keys(jnp.arange(len(jax.tree.leaves(x)[0])))
        return jax.vmap(lambda x, key: module(x, key=key))(x, each), batch_stats


# --- Linen -------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _LinenPart:
    """The part of a Linen module. Its state, beside 'params', is its batch statistics.

    What it sows is no state: a collection without which the module can be called is output.
    """

    module: nn.Module

    @property
    def uses_domain(self):
        declared = bool(accepted(self.module, {"domain": None}))
        return declared and getattr(self.module, "uses_domain", True)

    def init(self, key, x):
        # One domain: a joint batch would have to have two halves.
        options = {"train": False, "domain": SOURCE, "axis_name": None}
        variables = dict(self.module.init(key, x, **accepted(self.module, options)))
        state = {n: v for n, v in variables.items() if n != "params"}
        return variables.get("params", {}), {
            name: of_name for name, of_name in state.items() if self._needs(name, variables, x)
        }

    def _needs(self, collection, variables, x):
        """Returns whether the module cannot be called without a collection."""
        others = {name: value for name, value in variables.items() if name != collection}
        options = accepted(self.module, {"train": False, "domain": SOURCE, "axis_name": None})
        keys = {"params": jax.random.key(0)}
        try:
            jax.eval_shape(lambda v, x: self.module.apply(v, x, rngs=keys, **options), others, x)
        except flax.errors.FlaxError:
            return True
        return False

    def apply(
        self,
        theta,
        batch_stats,
        x,
        *,
        key=None,
        train=False,
        domain=None,
        axis_name=None,
        examples=None,
        layers=None,
    ):
        options = accepted(self.module, {"train": train, "domain": domain, "axis_name": axis_name})
        if key is not None:  # 'params' is the stream of all that are not given
            other = jax.random.fold_in(key, _OTHER_STREAMS)
            options["rngs"] = {"dropout": key, "params": other}
        mutable = list(batch_stats) if train else []
        if layers is not None:
            options["capture_intermediates"] = True
            mutable.append("intermediates")
        variables = {"params": theta, **batch_stats}
        checked = _LayerChecks(bool(SWITCHES.keys() & options), examples)
        with nn.intercept_methods(checked) if train else contextlib.nullcontext():
            y = self._called(variables, x, mutable=mutable or False, **options)
        y, changed = y if mutable else (y, {})
        if layers is not None:
            layers.update(_by_path(changed["intermediates"]))
        return y, ({name: changed[name] for name in batch_stats} if train else batch_stats)

    def _called(self, variables, x, **options):
        name = type(self.module).__name__
        try:
            return self.module.apply(variables, x, **options)
        except (AttributeError, TypeError) as error:
            if not isinstance(x, list):
                raise
            raise TypeError(
                f"{name} does not take a list of {len(x)} arrays ({error}): pass a list of "
                "examples as one array, np.asarray(list)"
            ) from error
        except flax.errors.InvalidRngError as error:
            raise TypeError(
                f"{name} needs random numbers outside training ({_short(error)}): switch its "
                "dropout off there, by deterministic=not train"
            ) from error
        except flax.errors.ModifyScopeVariableError as error:
            raise TypeError(
                f"{name} changes a state outside training ({_short(error)}): change it only where "
                "a switch such as `train` says so"
            ) from error
        except flax.errors.ScopeParamShapeError as error:
            raise ValueError(
                f"{name} has parameters of other shapes than its input needs ({_short(error)}): "
                "pass the state of this model, and inputs of the shape that it was made with"
            ) from error


def _by_path(intermediates):
    """Returns the output of the first call of each layer by its path."""
    outputs = jax.tree_util.tree_leaves_with_path(
        intermediates, is_leaf=lambda node: isinstance(node, tuple)
    )
    layers = {}
    for path, calls in outputs:
        names = [str(key.key) for key in path if str(key.key) != "__call__"]
        if names:
            layers["/".join(names)] = calls[0]
    return layers


def _short(error):
    """Returns what an error of Flax says, without its address."""
    return str(error).partition(" (https")[0].rstrip(".")


class _LayerChecks:
    """Raises where a layer of a part is not told that the part is trained, or learns nothing.

    Fixed statistics of batch norm are meant where the part is ``switched``, told that it is
    trained, and so is each module above the layer that declares a switch.

    Attributes:
      switched: Whether the modules above the layer are told.
      examples: Examples of each domain in the call, on this device; None where not known.
    """

    def __init__(self, switched, examples):
        """Starts above the layers."""
        self.switched, self.examples = switched, examples

    def __call__(self, call, args, kwargs, context):
        """Checks a call of a method of a Linen module and makes it."""
        module = context.module
        if context.method_name != "__call__":
            return call(*args, **kwargs)
        given = _given(module, args, kwargs)
        place = "/".join(module.path) or type(module).__name__
        if module.path:
            self._check_attributes(module, place)
        if getattr(module, "uses_domain", False) and "domain" not in given:
            raise TypeError(
                f"{place} has statistics of each domain and is not told the domain: pass it "
                "domain=domain, with `domain` a keyword argument of each module above it"
            )
        self.check(module, place, given, nn.Dropout, nn.BatchNorm)
        above = self.switched
        self.switched = above and not _untold(type(module), given)
        try:
            return call(*args, **kwargs)
        finally:
            self.switched = above

    def check(self, module, place, given, dropout, batch_norm):
        """Checks dropout and batch norm, of Linen or of NNX."""
        if isinstance(module, batch_norm):
            off = _setting(module, given, "use_running_average")
            self._check_batch_norm(module, place, next(iter(given.values())), off)
        rate = getattr(module, "rate" if isinstance(module, dropout) else "dropout_rate", 0)
        off = _setting(module, given, "deterministic")
        if off is True and isinstance(rate, int | float) and rate > 0:
            raise TypeError(
                f"dropout {place} is off in training: pass it deterministic=not train, with "
                "`train` a keyword argument of each module above it, or set its rate to 0"
            )

    def _check_attributes(self, module, place):
        if SWITCHES.keys() & _declared(type(module))[0]:
            return
        for name, on in SWITCHES.items():
            meant = name == "use_running_average" and self.switched
            if getattr(module, name, None) is (not on) and not meant:
                raise TypeError(
                    f"{place} is off in training: its attribute `{name}` is {not on}; let each "
                    f"module above it declare `train`, and make it with {name}="
                    f"{'train' if on else 'not train'}"
                )

    def _check_batch_norm(self, module, place, x, off):
        if off is True and not self.switched:
            raise TypeError(
                f"batch norm {place} has fixed statistics in training: pass it "
                "use_running_average=not train, with `train` a keyword argument of each module "
                "above it; where they are meant to be fixed, declare `train` and leave it unused"
            )
        axes = getattr(module, "axis", -1)  # NNX has the last one alone
        channels = math.prod(x.shape[a] for a in np.ravel(axes))
        devices = jax.lax.axis_size(module.axis_name) if module.axis_name is not None else 1
        if off:
            return
        if x.size * devices == channels:
            raise ValueError(
                f"batch norm {place} takes its statistics over one value of each channel, so that "
                "all features become its bias and nothing is learned: give each domain 2 examples "
                "a batch or more"
            )
        if self.examples is not None and self.examples * devices == 1:
            raise ValueError(
                f"batch norm {place} takes its statistics over one example of each domain, so "
                "that features tell an example from its own mean alone: give each domain 2 "
                "examples a batch or more"
            )


def _given(module, args, kwargs):
    """Returns the arguments of a call of a module by name."""
    try:
        given = inspect.signature(type(module).__call__).bind_partial(module, *args, **kwargs)
    except TypeError:  # the call says better what is wrong
        return kwargs
    _, *arguments = given.arguments.items()
    return dict(arguments)


def _setting(module, given, name):
    """Returns a switch of a layer, given in its call or else its attribute."""
    value = given.get(name)
    return getattr(module, name, None) if value is None else value


def _untold(cls, given):
    """Returns whether a module declares switches, each off by default, and is given none."""
    parameters = inspect.signature(cls.__call__).parameters
    off = [n for n, on in SWITCHES.items() if n in parameters and parameters[n].default is (not on)]
    return bool(off) and not any(name in given for name in SWITCHES)


# --- what a module is told ---------------------------------------------------------------


def adapt(function: nn.Module | PureFunction | Part, name: str) -> Part:
    """Returns a part of a model in the common form.

    Args:
      function: A Linen module, a ``PureFunction``, or what ``nnx_part`` or ``equinox_part``
        returns.
      name: What the model calls it, for the error.

    Raises:
      TypeError: It is none of them, or a module whose ``__call__`` does not say how it is told
        that it is trained.
    """
    if isinstance(function, PureFunction):
        if not all(map(callable, function)):
            raise TypeError(
                f"expected functions (key, x) -> theta and (theta, x) -> output in the "
                f"PureFunction of {name}, got {function.init!r:.40} and {function.apply!r:.40}"
            )
        return _FunctionPart(function)
    if isinstance(function, _NnxPart | _EquinoxPart):
        return function
    if isinstance(function, nn.Module):
        accepted(function, {"train": False})  # raises where that is not known
        return _LinenPart(function)
    raise TypeError(
        f"expected a Flax Linen module or a PureFunction as {name}, got "
        f"{type(function).__name__}: wrap it as PureFunction(init, apply), or an NNX module as "
        "nnx_part(module), or one of Equinox as equinox_part(make)"
    )


def accepted(module: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Returns those of ``options`` that a module's ``__call__`` declares by name.

    Args:
      module: A Linen or NNX module.
      options: Of ``train``, ``domain`` and ``axis_name``. In place of ``train`` the module may
        declare another of ``SWITCHES``.

    Raises:
      TypeError: There is ``train``, and it is not known how the module is told of it: its
        ``__call__`` takes ``**kwargs``, or an attribute decides it.
    """
    cls: Any = type(module)
    names, takes_any = _declared(cls)
    values = {name: value for name, value in options.items() if name in names}
    if "train" not in options:
        return values
    switches = {name: options["train"] == on for name, on in SWITCHES.items() if name in names}
    if not switches and takes_any and not isinstance(module, nn.Module):  # of NNX
        if not cls.__module__.startswith("flax."):
            raise _unknown(module, "its __call__ takes **kwargs and names no switch")
    elif not switches and isinstance(module, nn.Module):
        attribute = next((n for n in SWITCHES if isinstance(getattr(module, n, None), bool)), None)
        if attribute is not None:
            raise _unknown(module, f"its attribute `{attribute}` is the same for both")
        if isinstance(module, nn.Sequential):  # its **kwargs go to the first layer alone
            layers = [layer for layer in module.layers if isinstance(layer, nn.Module)]
            if any(accepted(layer, {"train": True}) for layer in layers):
                raise _unknown(module, "nn.Sequential passes its layers no switch")
        elif takes_any:
            raise _unknown(module, "its __call__ takes **kwargs and names no switch")
    return values | switches


def _unknown(module, why):
    return TypeError(
        f"{type(module).__name__} cannot be told training from prediction: {why}; declare one of "
        f"{', '.join(SWITCHES)} as a keyword argument of its __call__"
    )


@functools.cache
def _declared(cls):
    """Returns the names of the parameters of ``__call__``, and whether it takes any other."""
    parameters = inspect.signature(cls.__call__).parameters.values()
    names = (p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD))
    return frozenset(names), any(p.kind == p.VAR_KEYWORD for p in parameters)
