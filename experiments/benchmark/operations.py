"""The work that a step of training is, counted from the shapes of the layers."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dann_jax import DannModel

__all__ = ["flop_of_step"]


def flop_of_step(model: DannModel, pixels: int, batch: int) -> int:
    """Returns the floating-point operations of one update.

    A convolution or fully connected layer whose kernel has n weights for each output channel makes
    n multiply-adds for each value of its output, of 2 operations each, three times: forward, for
    the gradient of its weights, and for that of its input. The first layer of G_f, whose inputs are
    images, does not need the last one. G_f and G_d process the whole batch, G_y its source half.
    Everything else (biases, ReLU, pooling, losses, the optimizer) is left out. The count does not
    depend on the algorithm of a layer: one with fewer operations, such as Winograd's, may seem to
    exceed the hardware.

    Args:
      model: G_f, G_y and G_d, Linen modules.
      pixels: Height and width of the images.
      batch: Examples of a step.
    """
    image = jax.ShapeDtypeStruct((batch, pixels, pixels, 3), jnp.float32)
    of_f, f = _multiply_adds(model.feature_extractor, image)
    half = jax.ShapeDtypeStruct((batch // 2, *f.shape[1:]), f.dtype)
    of_y, _ = _multiply_adds(model.label_predictor, half)
    of_d, _ = _multiply_adds(model.domain_classifier, f)
    return 2 * (3 * sum(of_f + of_y + of_d) - of_f[0])


def _multiply_adds(module: nn.Module, x: jax.ShapeDtypeStruct) -> tuple[list[int], Any]:
    """Returns the multiply-adds of each layer in order, and the shape of the output."""
    counts = []

    def count(call, args, kwargs, context):
        y = call(*args, **kwargs)
        layer = context.module
        kernel = layer.variables.get("params", {}).get("kernel")
        if kernel is not None and context.method_name == "__call__":
            size = y.size if getattr(layer, "pool", None) is None else _unpooled(layer, args[0])
            counts.append(kernel.size // kernel.shape[-1] * size)
        return y

    with nn.intercept_methods(count):
        y, _ = jax.eval_shape(module.init_with_output, jax.random.key(0), x)
    return counts, y


def _unpooled(layer, x):
    """Returns the number of values that a convolution has before its own pooling."""
    kernel = layer.variables["params"]["kernel"]
    n, *sides, _ = x.shape
    if layer.padding == "VALID":
        sides = [s - k + 1 for s, k in zip(sides, kernel.shape, strict=False)]
    return n * math.prod(sides) * kernel.shape[-1]
