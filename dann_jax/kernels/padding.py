"""What is added around images, and whether their sizes are known."""

import chex

__all__ = ["check_padding", "has_symbolic_sizes", "same_padding"]


def same_padding(size: int, window: int, stride: int) -> tuple[int, int]:
    """Returns the padding of one axis, (before, after) in pixels, that ``'SAME'`` means."""
    total = max((-(-size // stride) - 1) * stride + window - size, 0)
    return total // 2, total - total // 2


def check_padding(padding: str) -> None:
    """Raises ``ValueError`` unless the padding is ``'VALID'`` or ``'SAME'``."""
    if padding not in ("VALID", "SAME"):
        raise ValueError(f"unknown padding {padding!r}: expected 'VALID' or 'SAME'")


def has_symbolic_sizes(x: chex.Array) -> bool:
    """Returns whether an axis has no fixed size, as in an export for batches of any size.

    The fast forms cut images into tiles and slices, for which sizes have to be numbers.
    """
    return not all(isinstance(size, int) for size in x.shape)
