"""Variables of a Linen module from the state dict of the same network in PyTorch."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["Layer", "variables"]

_SHOWN = 20  # names in an error
_COUNTER = "num_batches_tracked"  # of batch norm; it is not needed


class Layer(NamedTuple):
    """Where the weights of one layer lie, in the module and in the state dict."""

    path: tuple[str, ...]  # of names of submodules
    weight: str  # the name before '.weight' and '.bias'
    norm: str | None = None  # the same for batch norm
    side: int = 1  # of the images [side, side] that a fully connected layer takes


def variables(
    module: nn.Module,
    image_size: int,
    layers: Iterable[Layer],
    arrays: Mapping[str, np.ndarray],
    optional: Iterable[str] = (),
) -> dict[str, Any]:
    """Returns the variables of a module with the numbers of a state dict.

    Kernels ``[features, channel, height, width]`` become ``[height, width, channel, features]``,
    and the rows of a layer that takes flattened images follow.

    Args:
      module: The module, called with images ``[n, image_size, image_size, 3]``.
      image_size: Side of images that it takes, in pixels.
      layers: All layers with weights.
      arrays: The state dict.
      optional: Names before '.weight' and '.bias' of layers that may be in it and are not used.

    Returns:
      ``params`` and, where there is batch norm, ``batch_stats``; float32 arrays of NumPy.

    Raises:
      ValueError: Names are missing or unexpected, or arrays have other shapes, are no
        floating-point numbers or not finite; the error says which.
    """
    image = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)
    expected = jax.eval_shape(module.init, jax.random.key(0), image)
    places = {name: place for layer in layers for name, place in _places(layer, expected)}
    unused = {f"{layer}.{kind}" for layer in optional for kind in ("weight", "bias")}
    present = {n for n in arrays if n not in unused and n.rpartition(".")[2] != _COUNTER}
    problems = [
        *_named("missing", places.keys() - present),
        *_named("unexpected", present - places.keys()),
    ]
    wrong = []
    result: dict[str, Any] = {}
    for name in sorted(present & places.keys()):
        (collection, *path), shape, convert = places[name]
        array = arrays[name]
        if array.shape != shape:
            wrong.append(f"{name} {array.shape} for {shape}")
        elif not jnp.issubdtype(array.dtype, jnp.floating):
            wrong.append(f"{name} of {array.dtype}")
        elif not np.isfinite(array := array.astype(np.float32)).all():
            wrong.append(f"{name} with numbers that are not finite")
        else:
            at = result.setdefault(collection, {})
            for key in path[:-1]:
                at = at.setdefault(key, {})
            at[path[-1]] = np.ascontiguousarray(convert(array))
    problems += _named("wrong", wrong)
    if problems:
        raise ValueError("; ".join(problems))
    return result


def _places(layer, expected):
    """Yields each name of a layer's arrays: where it goes, its shape in the file, a function."""

    def keep(array):
        return array

    at = expected["params"]
    for key in layer.path:
        at = at[key]
    shape = at["kernel"].shape
    where = "params", *layer.path
    if len(shape) == 4:
        file, convert = shape[::-1][:2] + shape[:2], lambda w: w.transpose(2, 3, 1, 0)
    else:
        s = layer.side
        file = shape[::-1]

        def convert(w):
            w = w.reshape(len(w), -1, s, s).transpose(2, 3, 1, 0)
            return w.reshape(-1, w.shape[-1])

    yield f"{layer.weight}.weight", ((*where, "kernel"), file, convert)
    if "bias" in at:
        yield f"{layer.weight}.bias", ((*where, "bias"), at["bias"].shape, keep)
    if layer.norm is not None:
        channels = at["norm"]["scale"].shape
        averages = "batch_stats", *layer.path, "norm"
        yield f"{layer.norm}.weight", ((*where, "norm", "scale"), channels, keep)
        yield f"{layer.norm}.bias", ((*where, "norm", "bias"), channels, keep)
        yield f"{layer.norm}.running_mean", ((*averages, "mean"), channels, keep)
        yield f"{layer.norm}.running_var", ((*averages, "var"), channels, keep)


def _named(kind, names):
    names = sorted(names)
    if not names:
        return []
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return [f"{kind}: {', '.join(names[:_SHOWN])}{more}"]
