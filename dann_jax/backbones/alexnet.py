"""AlexNet up to fc7, the backbone of the paper's Office-31 experiments."""

from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from dann_jax.backbones.weights import Layer
from dann_jax.kernels import max_pool
from dann_jax.networks import Initializer, PooledConvolution

__all__ = ["AlexNet", "layers"]

_CONVOLUTIONS = (  # features, window, stride, padding, pooling after it
    (64, 11, 4, 2, True),
    (192, 5, 1, 2, True),
    (384, 3, 1, 1, False),
    (256, 3, 1, 1, False),
    (256, 3, 1, 1, True),
)
_SIDE = 6  # of the images that fc6 takes, pixels


class AlexNet(nn.Module):
    """AlexNet through fc7, in the one-column form without local response normalization.

    Attributes:
      dropout_rate: Probability that a unit of fc6 or fc7 is dropped in training, as in the
        paper's.
      kernel_init: Initializer of the weights; biases start at 0.
      dtype: Of the computation; parameters are float32.

    Source: Krizhevsky, One weird trick for parallelizing convolutional neural networks
    (arXiv:1404.5997), the form whose ImageNet weights are most widely published.
    """

    dropout_rate: float = 0.5
    kernel_init: Initializer = nn.initializers.he_normal()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, *, train=False):
        """Returns activations ``[n, 4096]`` of images ``[n, size, size, 3]``, 223 to 254 pixels."""
        shared = {"kernel_init": self.kernel_init, "dtype": self.dtype}
        for i, (features, window, stride, padding, pooled) in enumerate(_CONVOLUTIONS, start=1):
            name = f"conv{i}"
            if stride == 1:
                x = PooledConvolution(features, window, padding="SAME", name=name, **shared)(x)
            else:
                kernel = window, window
                x = nn.Conv(features, kernel, stride, padding, name=name, **shared)(x)
            x = nn.relu(x)
            if pooled:
                x = max_pool(x, 3, 2)
        if x.shape[1:3] != (_SIDE, _SIDE):
            raise ValueError(
                f"expected images whose last convolution is 6x6 (223 to 254 pixels), got "
                f"{x.shape[1]}x{x.shape[2]}: crop or resize the images to 227x227"
            )
        x = x.reshape(x.shape[0], -1)
        for name in ("fc6", "fc7"):
            x = nn.relu(nn.Dense(4096, name=name, **shared)(x))
            x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        return x


def layers() -> Iterator[Layer]:
    """Yields the layers of ``AlexNet()`` and their names in state dicts."""
    for i, number in enumerate((0, 3, 6, 8, 10), start=1):
        yield Layer((f"conv{i}",), f"features.{number}")
    yield Layer(("fc6",), "classifier.1", side=_SIDE)
    yield Layer(("fc7",), "classifier.4")
