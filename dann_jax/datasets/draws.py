"""Random numbers that are a function of (seed, stream, index) and of nothing else.

Philox is a counter-based generator: number ``k`` of a key is computed from ``k`` alone. Each
image owns a fixed range of counters, so a table of draws for a whole split and the draws of
one image agree, whatever the order or the number of processes. Only the raw 64-bit words are
used, whose stream NumPy promises never to change.
"""

import hashlib

import numpy as np

__all__ = ["choice", "uniform"]

_WORDS_PER_COUNTER = 4  # one Philox block is four 64-bit words


def uniform(seed: int, stream: str, start: int, stop: int, *, count: int) -> np.ndarray:
    """Returns ``count`` uniform numbers in [0, 1) for each index in ``start .. stop - 1``.

    Args:
        seed: a whole number in [0, 2**64).
        stream: what the numbers are for, for example ``"train"``; streams are independent.
        start: first index.
        stop: one past the last index.
        count: how many numbers each index needs; part of what fixes the numbers.

    Returns:
        float64 ``[stop - start, count]``; the row of index i is the same for every range
        that contains i.

    Raises:
        ValueError: the range is empty the wrong way round or starts below zero.
    """
    if not 0 <= start <= stop:
        raise ValueError(f"expected 0 <= start <= stop, got start={start} and stop={stop}")
    name = hashlib.blake2b(stream.encode(), digest_size=8).digest()
    key = np.array([seed, int.from_bytes(name, "little")], np.uint64)
    blocks = -(-count // _WORDS_PER_COUNTER)
    generator = np.random.Philox(key=key, counter=start * blocks)
    words = generator.random_raw((stop - start) * blocks * _WORDS_PER_COUNTER)
    words = words.reshape(stop - start, blocks * _WORDS_PER_COUNTER)[:, :count]
    return (words >> np.uint64(11)) * 2.0**-53


def choice(draw: np.ndarray, size: int | np.ndarray) -> np.ndarray:
    """Returns whole numbers in ``0 .. size - 1`` for uniform draws.

    >>> choice(np.array([0.0, 0.49, 0.999]), 4)
    array([0, 1, 3])

    Args:
        draw: numbers in [0, 1), any shape.
        size: how many outcomes, a number or an array that broadcasts against ``draw``.

    Returns:
        int64, the broadcast shape.
    """
    return np.floor(draw * size).astype(np.int64)
