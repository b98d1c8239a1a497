"""A digest names every bit of an array, its path, dtype and shape, and nothing else."""

import numpy as np
import pytest

from experiments import digests

TREE = {"b": {"w": np.array([[1.0, 2.0]], np.float32)}, "a": np.array([3], np.int32)}


def test_a_digest_does_not_depend_on_the_order_of_names_or_on_strides():
    same = {"a": TREE["a"].copy(), "b": {"w": np.asfortranarray(TREE["b"]["w"])}}
    assert digests.of_arrays(same) == digests.of_arrays(TREE)
    assert len(digests.of_arrays(TREE)) == 64


@pytest.mark.parametrize(
    "w",
    [
        np.array([[1.0, np.nextafter(np.float32(2), np.float32(3))]], np.float32),
        np.array([1.0, 2.0], np.float32),
        np.array([[1.0], [2.0]], np.float32),
        np.array([[1.0, 2.0]], np.float64),
        np.array([[1.0, 2.0]], np.float32).view(np.int32),
    ],
)
def test_a_digest_names_bits_dtype_and_shape(w):
    assert digests.of_arrays({**TREE, "b": {"w": w}}) != digests.of_arrays(TREE)


def test_a_digest_names_paths():
    assert digests.of_arrays({**TREE, "b": {"v": TREE["b"]["w"]}}) != digests.of_arrays(TREE)
    assert digests.of_arrays({"c": TREE["a"], "b": TREE["b"]}) != digests.of_arrays(TREE)
