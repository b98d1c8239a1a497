"""Checkpoints are restored bit for bit, and an interrupted save costs nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dann_jax import checkpoints


def tree(value=1.0):
    return {
        "step": jnp.int32(7),
        "theta": {"f": [jnp.full([2, 3], value), jnp.ones([2], jnp.bfloat16) * value]},
        "empty": {},
    }


def equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


def test_restored_trees_are_bit_exact(tmp_path):
    checkpoints.save(tmp_path / "a" / "b", tree(0.1))
    equal(checkpoints.restore(tmp_path / "a" / "b", tree(9.0)), tree(0.1))
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["b"]  # nothing left over


def test_shapes_are_enough_to_restore(tmp_path):
    checkpoints.save(tmp_path / "run", tree(0.1))
    like = jax.eval_shape(tree)
    equal(checkpoints.restore(tmp_path / "run", like), tree(0.1))


def test_typed_keys_are_restored(tmp_path):
    keys = {"key": jax.random.key(3)}
    checkpoints.save(tmp_path / "run", keys)
    restored = checkpoints.restore(tmp_path / "run", keys)
    assert jax.random.bits(restored["key"]) == jax.random.bits(keys["key"])


def test_relative_folders_are_taken(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoints.save("run", tree(0.1))
    equal(checkpoints.restore("run", tree()), tree(0.1))


def test_nothing_to_restore_is_none(tmp_path):
    assert checkpoints.restore(tmp_path / "run", tree()) is None


def test_a_new_checkpoint_takes_the_place_of_the_old(tmp_path):
    for value in (1.0, 2.0, 3.0):
        checkpoints.save(tmp_path / "run", tree(value))
    equal(checkpoints.restore(tmp_path / "run", tree()), tree(3.0))
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_another_structure_is_refused(tmp_path):
    checkpoints.save(tmp_path / "run", tree())
    with pytest.raises(ValueError):
        checkpoints.restore(tmp_path / "run", {"other": jnp.zeros(3)})


class Interrupted(Exception):
    pass


def interrupt(monkeypatch, owner, name, call):
    """Makes the ``call``-th use of a function from now on end the save."""
    whole, seen = getattr(owner, name), 0

    def cut(*args, **kwargs):
        nonlocal seen
        seen += 1
        if seen == call:
            raise Interrupted
        return whole(*args, **kwargs)

    monkeypatch.setattr(owner, name, cut)


@pytest.mark.parametrize(
    ("name", "call"),
    [("rename", 1), ("rename", 2)],
    ids=["before the old one is moved", "between the two moves"],
)
def test_an_interrupted_save_keeps_the_older_checkpoint(tmp_path, monkeypatch, name, call):
    checkpoints.save(tmp_path / "run", tree(1.0))
    with monkeypatch.context() as patch:
        interrupt(patch, checkpoints.pathlib.Path, name, call)
        with pytest.raises(Interrupted):
            checkpoints.save(tmp_path / "run", tree(2.0))
    equal(checkpoints.restore(tmp_path / "run", tree()), tree(1.0))
    checkpoints.save(tmp_path / "run", tree(3.0))  # and the next save is whole
    equal(checkpoints.restore(tmp_path / "run", tree()), tree(3.0))
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_a_save_cut_off_while_writing_keeps_the_older_checkpoint(tmp_path, monkeypatch):
    checkpoints.save(tmp_path / "run", tree(1.0))
    with monkeypatch.context() as patch:
        interrupt(patch, checkpoints.ocp.StandardCheckpointer, "save", 1)
        with pytest.raises(Interrupted):
            checkpoints.save(tmp_path / "run", tree(2.0))
    (tmp_path / "run.new").mkdir(exist_ok=True)  # what a killed process may leave behind
    equal(checkpoints.restore(tmp_path / "run", tree()), tree(1.0))
    checkpoints.save(tmp_path / "run", tree(2.0))
    equal(checkpoints.restore(tmp_path / "run", tree()), tree(2.0))


def test_two_interruptions_in_a_row_keep_the_older_checkpoint(tmp_path, monkeypatch):
    checkpoints.save(tmp_path / "run", tree(1.0))
    for call in (2, 1):  # between the two moves; then before the only move
        with monkeypatch.context() as patch:
            interrupt(patch, checkpoints.pathlib.Path, "rename", call)
            with pytest.raises(Interrupted):
                checkpoints.save(tmp_path / "run", tree(2.0))
        equal(checkpoints.restore(tmp_path / "run", tree()), tree(1.0))
