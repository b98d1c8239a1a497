"""Max-pooling whose gradient is fast on every platform.

Values and gradients are those of ``flax.linen.max_pool``.
"""

import functools
from typing import NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from dann_jax.kernels.compiler import plain_xla
from dann_jax.kernels.padding import check_padding, has_symbolic_sizes, same_padding

__all__ = ["max_pool"]


def max_pool(x: chex.Array, window: int, stride: int = 2, padding: str = "VALID") -> chex.Array:
    """Returns the maximum over square windows.

    Where several entries of a window are equal and largest, the first (row by row) gets the
    gradient, as in ``flax.linen.max_pool`` and PyTorch. There is no forward-mode derivative.

    Args:
      x: ``[n, height, width, channel]``, floating point.
      window: Side of the window, in pixels.
      stride: Step of the window, in pixels.
      padding: ``'VALID'`` or ``'SAME'`` (padded with minus infinity).

    Returns:
      Pooled ``x``: ``[n, rows, columns, channel]``.

    Raises:
      ValueError: The padding is another, or ``x`` holds integers.
    """
    check_padding(padding)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"expected floating-point values to pool, got {x.dtype}: convert them")
    if plain_xla() or has_symbolic_sizes(x):
        return nn.max_pool(x, (window, window), (stride, stride), padding)
    pads = [(0, 0), (0, 0)]
    if padding == "SAME":
        pads = [same_padding(size, window, stride) for size in x.shape[1:3]]
    rows, columns = (
        (size + sum(pad) - window) // stride + 1
        for size, pad in zip(x.shape[1:3], pads, strict=True)
    )
    windows = _Windows(
        height=x.shape[1],
        width=x.shape[2],
        rows=rows,
        columns=columns,
        top=pads[0][0],
        left=pads[1][0],
        window=window,
        stride=stride,
    )
    return _max_pool(windows, x)


class _Windows(NamedTuple):
    """Where the windows of a max-pooling lie."""

    height: int  # of the input, pixels
    width: int
    rows: int  # of the output
    columns: int
    top: int  # padding of the input, pixels
    left: int
    window: int
    stride: int

    @property
    def reach(self):
        """How many strides a window goes beyond its own."""
        return (self.window - 1) // self.stride

    @property
    def covered(self):
        """Height and width of all windows, as a multiple of the stride, pixels."""
        return tuple((n + self.reach) * self.stride for n in (self.rows, self.columns))

    @property
    def entries(self):
        """Offsets of a window's entries, row by row: (strides, pixels) down, then across."""
        offsets = [divmod(i, self.stride) for i in range(self.window)]
        return [(*down, *across) for down in offsets for across in offsets]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _max_pool(windows, x):
    return functools.reduce(jnp.maximum, _slices(windows, x))


def _slices(windows, x):
    """Returns the first entries of all windows, the second, ...: each [n, rows, columns, c]."""
    height, width = windows.covered
    x = jax.lax.pad(
        x,
        jnp.asarray(-jnp.inf, x.dtype),
        [
            (0, 0, 0),
            (windows.top, height - windows.height - windows.top, 0),
            (windows.left, width - windows.width - windows.left, 0),
            (0, 0, 0),
        ],
    )
    # Pixels of one stride on axes of their own, so that no slice has to be strided.
    s, (n, *_, channels) = windows.stride, x.shape
    x = x.reshape(n, height // s, s, width // s, s, channels)
    return [
        x[:, i : i + windows.rows, a, j : j + windows.columns, b] for i, a, j, b in windows.entries
    ]


def _max_pool_forward(windows, x):
    slices = _slices(windows, x)
    y = functools.reduce(jnp.maximum, slices)
    last = len(slices) - 1
    first = jnp.full(y.shape, last, jnp.uint8 if last < 255 else jnp.int32)
    for number in reversed(range(last)):
        first = jnp.where(slices[number] == y, first.dtype.type(number), first)
    return y, first


def _max_pool_backward(windows, first, dy):
    s, reach = windows.stride, windows.reach
    beside = ((0, 0), (reach, reach), (reach, reach), (0, 0))
    first, dy = jnp.pad(first, beside), jnp.pad(dy, beside)  # what is beside has no gradient
    rows, columns = (size // s for size in windows.covered)

    def pixel(a, b):
        """Returns the gradient of the pixels at (a, b) of each stride."""
        gradient = jnp.zeros((len(dy), rows, columns, dy.shape[-1]), dy.dtype)
        for number, (i, to_a, j, to_b) in enumerate(windows.entries):
            if (to_a, to_b) == (a, b):
                at = (
                    slice(None),
                    slice(reach - i, reach - i + rows),
                    slice(reach - j, reach - j + columns),
                )
                gradient += jnp.where(first[at] == number, dy[at], 0)
        return gradient

    dx = jnp.stack([jnp.stack([pixel(a, b) for b in range(s)], 3) for a in range(s)], 2)
    dx = dx.reshape(len(dy), rows * s, columns * s, dy.shape[-1])
    sides = [
        (-windows.top, windows.height + windows.top - rows * s, 0),
        (-windows.left, windows.width + windows.left - columns * s, 0),
    ]
    zero = jnp.zeros([], dx.dtype)
    return (jax.lax.pad(dx, zero, [(0, 0, 0), *sides, (0, 0, 0)]),)


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)
