"""Equal digests mean equal numbers, bit for bit."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dann_jax import replicate
from dann_jax.digests import digest

ZEROS = np.zeros(4, np.float32)


def test_whatever_differs_changes_the_digest():
    trees = [
        {"a": ZEROS},
        {"b": ZEROS},
        {"a": -ZEROS},
        {"a": ZEROS + np.float32(1e-45)},
        {"a": ZEROS.astype(np.int32)},
        {"a": ZEROS.astype(jnp.bfloat16)},
        {"a": ZEROS.reshape(2, 2)},
        {"a": [ZEROS[:2], ZEROS[2:]]},
        {"a": ZEROS, "b": ZEROS[:0]},
        {"a": np.arange(4, dtype=np.float32)},
        {"a": np.arange(4, dtype=np.float32)[::-1]},
        {"a": jax.random.key(0)},
        {"a": jax.random.key(1)},
        {"a": jax.random.key(0, impl="rbg")},
        {"a": jax.random.key_data(jax.random.key(0))},
        ZEROS,
        None,
    ]
    for one, other in itertools.combinations(trees, 2):
        assert digest(one) != digest(other), (one, other)


def test_where_and_how_an_array_lies_does_not_change_the_digest(devices):
    tree = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": (np.nan, 3)}
    expected = digest(tree)
    assert digest({"b": (np.nan, 3), "a": np.asfortranarray(tree["a"])}) == expected
    assert digest(tree | {"a": replicate(tree["a"], devices)}) == expected


def test_what_is_no_array_is_refused():
    with pytest.raises(TypeError, match=r"tree\['a'\]\[0\], got function"):
        digest({"a": [digest]})
