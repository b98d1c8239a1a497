"""ResNet-50, the backbone of most later work on Office-31."""

from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from dann_jax.backbones.normalized_convolution import NormalizedConvolution
from dann_jax.backbones.weights import Layer
from dann_jax.kernels import max_pool
from dann_jax.networks import Initializer

__all__ = ["ResNet50", "layers"]

_STAGES = ((3, 64), (4, 128), (6, 256), (3, 512))  # blocks, inner channels
_EXPANSION = 4  # output channels of a block over its inner ones


class ResNet50(nn.Module):
    """ResNet-50 up to the average over all pixels that its classifier takes.

    Attributes:
      momentum: Share of the running averages of batch norm that each batch keeps.
      kernel_init: Initializer of the weights.
      dtype: Of the computation; parameters and statistics are float32.

    Source: He et al., Deep residual learning (arXiv:1512.03385), with the strides in the 3x3
    convolutions, as in the weights that are most widely published.
    """

    momentum: float = 0.9
    kernel_init: Initializer = nn.initializers.he_normal()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, *, train=False, axis_name=None):
        """Returns activations ``[n, 2048]`` of images ``[n, height, width, 3]``."""

        def layer(x, name, features, side, stride=1, activation=nn.relu):
            return NormalizedConvolution(
                features,
                side,
                stride,
                activation=activation,
                momentum=self.momentum,
                kernel_init=self.kernel_init,
                dtype=self.dtype,
                name=name,
            )(x, train=train, axis_name=axis_name)

        x = layer(x, "stem", 64, 7, 2)
        # After a ReLU, zeros beside the image never exceed what is in it.
        x = max_pool(jnp.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)]), 3, 2)
        for name, inner, stride, first in _blocks():
            y = layer(x, f"{name}_conv1", inner, 1)
            y = layer(y, f"{name}_conv2", inner, 3, stride)
            y = layer(y, f"{name}_conv3", _EXPANSION * inner, 1, activation=None)
            if first:
                x = layer(x, f"{name}_shortcut", _EXPANSION * inner, 1, stride, activation=None)
            x = nn.relu(x + y)
        return jnp.mean(x, (1, 2))


def _blocks():
    """Yields the name, inner channels and stride of each block, and whether it begins a stage."""
    for i, (blocks, inner) in enumerate(_STAGES, start=1):
        for j in range(blocks):
            yield f"layer{i}_{j}", inner, 2 if i > 1 and j == 0 else 1, j == 0


def layers() -> Iterator[Layer]:
    """Yields the layers of ``ResNet50()`` and their names in state dicts."""
    yield Layer(("stem",), "conv1", "bn1")
    for name, _, _, first in _blocks():
        prefix = name.replace("_", ".")
        for i in (1, 2, 3):
            yield Layer((f"{name}_conv{i}",), f"{prefix}.conv{i}", f"{prefix}.bn{i}")
        if first:
            yield Layer((f"{name}_shortcut",), f"{prefix}.downsample.0", f"{prefix}.downsample.1")
