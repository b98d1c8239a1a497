"""One form for the parts of a model, G_f, G_y and G_d, whichever library they come from.

``networks.DannModel`` adapts its parts once, when it is made; training and evaluation call them in
this form alone.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import chex
import flax.linen as nn
import jax

from dann_jax.objective import SOURCE

__all__ = ["Part", "PureFunction", "accepted", "adapt"]


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
    ) -> tuple[Any, dict[str, Any]]:
        """Returns the output and the batch statistics after it, which move in training only."""

    def layers(
        self, theta: Any, batch_stats: dict[str, Any], x: Any, *, domain: int
    ) -> tuple[Any, dict[str, Any]]:
        """Returns the output and that of each layer by its path, outside training."""


@dataclasses.dataclass(frozen=True)
class _FunctionPart:
    """The part of a ``PureFunction``: no batch statistics, no dropout, one layer."""

    function: PureFunction

    uses_domain = False

    def init(self, key, x):
        return self.function.init(key, x), {}

    def apply(self, theta, batch_stats, x, **_):
        return self.function.apply(theta, x), batch_stats

    def layers(self, theta, batch_stats, x, *, domain):
        del batch_stats, domain
        return self.function.apply(theta, x), {}


@dataclasses.dataclass(frozen=True)
class _LinenPart:
    """The part of a Linen module, whose collections beside 'params' are the batch statistics."""

    module: nn.Module

    @property
    def uses_domain(self):
        return bool(accepted(self.module, {"domain": None}))

    def init(self, key, x):
        # One domain: a joint batch would have to have two halves.
        options = {"train": False, "domain": SOURCE, "axis_name": None}
        variables = dict(self.module.init(key, x, **accepted(self.module, options)))
        return variables.pop("params", {}), variables

    def apply(self, theta, batch_stats, x, *, key=None, train=False, domain=None, axis_name=None):
        options = {"train": train, "domain": domain, "axis_name": axis_name}
        y, new_stats = self.module.apply(
            {"params": theta, **batch_stats},
            x,
            rngs=None if key is None else {"dropout": key},
            mutable=list(batch_stats) if train else [],
            **accepted(self.module, options),
        )
        return y, (dict(new_stats) if train and batch_stats else batch_stats)

    def layers(self, theta, batch_stats, x, *, domain):
        options = {"train": False, "domain": domain, "axis_name": None}
        y, captured = self.module.apply(
            {"params": theta, **batch_stats},
            x,
            capture_intermediates=True,
            mutable=["intermediates"],
            **accepted(self.module, options),
        )
        outputs = jax.tree_util.tree_leaves_with_path(
            captured["intermediates"], is_leaf=lambda node: isinstance(node, tuple)
        )
        layers = {}
        for path, calls in outputs:
            names = [str(key.key) for key in path if str(key.key) != "__call__"]
            if names:
                layers["/".join(names)] = calls[0]
        return y, layers


def adapt(function: nn.Module | PureFunction, name: str) -> Part:
    """Returns a part of a model in the common form.

    Args:
      function: A Linen module or a ``PureFunction``.
      name: What the model calls it, for the error.

    Raises:
      TypeError: It is neither.
    """
    if isinstance(function, PureFunction):
        return _FunctionPart(function)
    if isinstance(function, nn.Module):
        return _LinenPart(function)
    raise TypeError(
        f"expected a Flax Linen module or a PureFunction as {name}, got "
        f"{type(function).__name__}: wrap it as PureFunction(init, apply)"
    )


@functools.cache
def _declared(cls):
    return frozenset(inspect.signature(cls.__call__).parameters)


def accepted(module: nn.Module, options: dict[str, Any]) -> dict[str, Any]:
    """Returns those of ``options`` that the module's ``__call__`` declares by name."""
    cls: Any = type(module)
    declared = _declared(cls)
    return {k: v for k, v in options.items() if k in declared}
