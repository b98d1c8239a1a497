"""Random numbers, one for each image of a block at a time."""

import numpy as np

from dann_jax.datasets import draws

__all__ = ["Chance"]


class Chance:
    """Deals out the columns of a table of uniform draws, in order.

    What an image gets depends on its own row alone, so that images do not depend on the block
    in which they are drawn. Bounds and probabilities are numbers or arrays ``[n]``.
    """

    def __init__(self, table: np.ndarray):
        """Starts at the first column.

        Args:
            table: numbers in [0, 1), ``[n, count]``.
        """
        self._columns = iter(table.T)

    def between(self, low, high) -> np.ndarray:
        """Returns numbers in [low, high), float64 ``[n]``."""
        return low + (high - low) * next(self._columns)

    def normal(self, sd) -> np.ndarray:
        """Returns numbers of mean 0 and the given standard deviation, float64 ``[n]``.

        They are sums of three uniform numbers: bell-shaped, never beyond three standard
        deviations, and exact on every machine.
        """
        return (
            sd * 2 * (self.between(-0.5, 0.5) + self.between(-0.5, 0.5) + self.between(-0.5, 0.5))
        )

    def happens(self, probability) -> np.ndarray:
        """Returns whether something of the given probability happens, bool ``[n]``."""
        return next(self._columns) < probability

    def sometimes(self, probability, low, high) -> np.ndarray:
        """Returns numbers in [low, high) with the given probability, else 0, float64 ``[n]``."""
        return self.happens(probability) * self.between(low, high)

    def choice(self, size) -> np.ndarray:
        """Returns whole numbers in ``0 .. size - 1``, int64 ``[n]``."""
        return draws.choice(next(self._columns), size)
