"""The batch of step t is a pure function of (key, t)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dann_jax import DomainArrays, batch_indices, gather
from dann_jax.batches import _divide, in_blocks

pytestmark = pytest.mark.usefixtures("quick_compilation")

KEY = jax.random.key(7)


@functools.partial(jax.jit, static_argnames=("steps", "examples", "batch"))
def draw(first, steps, examples=(10, 7), batch=(4, 3), key=KEY):
    return batch_indices(key, first, steps=steps, examples=examples, batch=batch)


@jax.jit
def divide(step, batch, examples):
    return _divide(step, batch, examples)


def test_shapes_dtypes_and_ranges():
    indices = draw(0, 6)
    assert indices.source.shape == (6, 4)
    assert indices.target.shape == (6, 3)
    assert indices.source.dtype == indices.target.dtype == jnp.int32
    assert {*np.ravel(indices.source)} == set(range(10))
    assert {*np.ravel(indices.target)} == set(range(7))


@pytest.mark.parametrize(("examples", "batch"), [((10, 7), (4, 3)), ((5, 3), (8, 9))])
def test_steps_drawn_one_by_one_are_those_drawn_at_once(examples, batch):
    at_once = draw(0, 12, examples, batch)
    for t in range(12):
        one = draw(t, 1, examples, batch)
        np.testing.assert_array_equal(one.source[0], at_once.source[t])
        np.testing.assert_array_equal(one.target[0], at_once.target[t])
    later = draw(5, 12, examples, batch)
    np.testing.assert_array_equal(later.source[:7], at_once.source[5:])
    np.testing.assert_array_equal(later.target[:7], at_once.target[5:])


def test_first_step_may_be_traced():
    traces = 0

    @jax.jit
    def traced(t):
        nonlocal traces
        traces += 1
        return batch_indices(KEY, t, steps=2, examples=(10, 7), batch=(4, 3))

    for t in (0, 3, 1_000_000):
        np.testing.assert_array_equal(traced(t).source, draw(t, 2).source)
    assert traces == 1


def test_every_epoch_is_a_permutation_also_across_batches():
    # 10 examples by 4 and 7 by 3: most epochs start or end inside a batch.
    indices = draw(0, 70)
    source, target = np.ravel(indices.source).reshape(-1, 10), np.ravel(indices.target)
    target = target.reshape(-1, 7)
    for epochs, size in ((source, 10), (target, 7)):
        np.testing.assert_array_equal(
            np.sort(epochs, axis=1), np.tile(np.arange(size), (len(epochs), 1))
        )
        assert len(np.unique(epochs, axis=0)) > len(epochs) // 2  # a new order each


def test_the_shorter_domain_cycles():
    indices = draw(0, 25, examples=(100, 20), batch=(4, 4))
    assert np.bincount(np.ravel(indices.source), minlength=100).tolist() == [1] * 100
    assert np.bincount(np.ravel(indices.target), minlength=20).tolist() == [5] * 20


def test_domains_and_keys_have_orders_of_their_own():
    indices = draw(0, 5, examples=(20, 20), batch=(4, 4))
    assert jnp.any(indices.source != indices.target)
    other = draw(0, 5, examples=(20, 20), batch=(4, 4), key=jax.random.key(8))
    assert jnp.any(indices.source != other.source)
    assert jnp.any(indices.target != other.target)


@pytest.mark.parametrize("examples", [1, 7, 64, 1000, 59_001, 479_400, 2**25])
@pytest.mark.parametrize("batch", [1, 3, 64, 100])
def test_large_step_numbers_agree_with_exact_integers(examples, batch):
    # Python's integers are exact; step * batch passes 2^31 for the larger steps.
    for step in (0, 1, 12_345, 2**25 + 1, 10**8 + 7, 2**31 - 1):
        epoch, position = divide(step, batch, examples)
        want_epoch, want_position = divmod(step * batch, examples)
        assert (int(epoch), int(position)) == (want_epoch % 2**32, want_position)


def test_batches_far_beyond_2_to_the_31_examples():
    step = 2**30 + 3  # times 64 is 2^36
    far = draw(step, 2, examples=(50, 30), batch=(64, 64))
    for d, (indices, size) in enumerate(zip(far, (50, 30), strict=True)):
        got = np.ravel(indices)
        for n, k in enumerate(range(step * 64, step * 64 + 128)):
            epoch, position = divmod(k, size)
            if position == 0 or n == 0:  # the order of this epoch, by the definition
                key = jax.random.fold_in(jax.random.fold_in(KEY, d), epoch)
                order = np.asarray(jax.random.permutation(key, size))
            assert got[n] == order[position]


def test_gather_takes_the_examples_as_stored():
    arrays = DomainArrays(
        np.arange(24, dtype=np.uint8).reshape(6, 2, 2, 1),
        np.arange(6),
        np.arange(100, 120, dtype=np.uint8).reshape(5, 2, 2, 1),
    )
    source, target = jnp.array([4, 0]), jnp.array([1, 1])
    batch = gather(arrays, source, target)
    assert batch.source_image.dtype == jnp.uint8
    assert batch.target_label is None
    np.testing.assert_array_equal(batch.source_image, arrays.source_image[[4, 0]])
    np.testing.assert_array_equal(batch.source_label, [4, 0])
    np.testing.assert_array_equal(batch.target_image, arrays.target_image[[1, 1]])
    labelled = gather(arrays._replace(target_label=np.arange(5) - 1), source, target)
    np.testing.assert_array_equal(labelled.target_label, [0, 0])
    few = arrays._replace(target_label=np.arange(5))
    known = gather(few, source, jnp.array([1, 4, 2]), labelled=(2, 1)).target_label
    np.testing.assert_array_equal(known, [1, -1, -1])


def test_errors_say_what_was_expected():
    with pytest.raises(ValueError, match="the target has 0 examples and 3 a batch"):
        draw(0, 1, examples=(10, 0))
    with pytest.raises(ValueError, match="the source has 10 examples and 0 a batch"):
        draw(0, 1, batch=(0, 3))
    with pytest.raises(ValueError, match="beyond 32 bits: make the batch smaller, at most 42"):
        draw(0, 1, examples=(100_000_000, 7), batch=(64, 3))


@pytest.mark.slow
def test_in_blocks_gives_what_is_drawn_directly_whatever_is_asked_for():
    drawn = []

    def draw(key, first, steps):
        drawn.append((first, steps))
        return batch_indices(key, first, steps=steps, examples=(7, 5), batch=(2, 3))

    rows = in_blocks(draw, block=8)
    keys = jax.random.split(jax.random.key(3), 2)
    for key, first, steps in [(0, 0, 3), (1, 0, 3), (0, 3, 9), (1, 3, 2), (0, 0, 1), (0, 30, 20)]:
        drawn_in_blocks = rows(keys[key], first, steps)
        expected = batch_indices(keys[key], first, steps=steps, examples=(7, 5), batch=(2, 3))
        for a, b in zip(drawn_in_blocks, expected, strict=True):
            np.testing.assert_array_equal(a, b)
    assert drawn == [(0, 8)] * 2 + [(8, 8)] + [(24, 8), (32, 8), (40, 8), (48, 8)]
