"""Checkpoints are restored bit for bit; interruptions and damage cost some steps at most."""

import asyncio
import logging
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from test_distributed import free_port

from dann_jax import checkpoints
from dann_jax.checkpoints import Checkpoints

SECONDS = 120  # after which a process is given up


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


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# --- one tree ------------------------------------------------------------------------------


def test_restored_trees_are_bit_exact(tmp_path):
    checkpoints.save(tmp_path / "a" / "b", tree(0.1))
    equal(checkpoints.restore(tmp_path / "a" / "b", tree(9.0)), tree(0.1))
    assert names(tmp_path / "a") == ["b"]  # nothing left over


def test_shapes_are_enough_to_restore(tmp_path):
    checkpoints.save(tmp_path / "run", tree(0.1))
    like = jax.eval_shape(tree)
    equal(checkpoints.restore(tmp_path / "run", like), tree(0.1))


def test_restored_arrays_are_placed_as_asked_for(tmp_path, devices):
    checkpoints.save(tmp_path / "run", tree(0.1))
    place = jax.sharding.SingleDeviceSharding(devices[1])
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), jax.eval_shape(tree)
    )
    restored = checkpoints.restore(tmp_path / "run", like)
    assert all(leaf.devices() == {devices[1]} for leaf in jax.tree.leaves(restored))
    equal(restored, tree(0.1))


def test_typed_keys_are_restored(tmp_path):
    keys = {"key": jax.random.key(3), "many": jax.random.split(jax.random.key(4), 5)}
    checkpoints.save(tmp_path / "run", keys)
    restored = checkpoints.restore(tmp_path / "run", keys)
    assert jax.random.bits(restored["key"]) == jax.random.bits(keys["key"])
    equal(jax.tree.map(jax.random.key_data, restored), jax.tree.map(jax.random.key_data, keys))


def test_numbers_are_restored(tmp_path):
    checkpoints.save(tmp_path / "run", {"next_index": 6, "scalar": np.int32(7)})
    like = {"next_index": 0, "scalar": np.int32(0)}
    assert checkpoints.restore(tmp_path / "run", like) == {"next_index": 6, "scalar": 7}


def test_relative_folders_are_taken(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoints.save("run", tree(0.1))
    equal(checkpoints.restore("run", tree()), tree(0.1))


def test_nothing_to_restore_is_none(tmp_path):
    assert checkpoints.restore(tmp_path / "run", tree()) is None
    (tmp_path / "run").mkdir()
    assert checkpoints.restore(tmp_path / "run", tree()) is None


def test_a_new_checkpoint_takes_the_place_of_the_old(tmp_path):
    for value in (1.0, 2.0, 3.0):
        checkpoints.save(tmp_path / "run", tree(value))
    equal(checkpoints.restore(tmp_path / "run", tree()), tree(3.0))
    assert len(names(tmp_path / "run")) == 1


# --- several steps -------------------------------------------------------------------------


def test_the_last_checkpoints_are_kept(tmp_path):
    run = Checkpoints(tmp_path / "run", keep=2)
    assert run.latest_step() is None
    for step in (10, 20, 30):
        run.save(step, tree(float(step)))
    assert names(tmp_path / "run") == ["20", "30"]
    assert run.latest_step() == 30
    equal(run.restore(tree()), tree(30.0))
    equal(run.restore(tree(), step=20), tree(20.0))
    with pytest.raises(ValueError, match=r"expected the step of a checkpoint .*\[20, 30\], got 10"):
        run.restore(tree(), step=10)
    run.delete()
    assert names(tmp_path) == []
    assert run.restore(tree()) is None
    run.delete()  # nothing there is no error


def test_a_step_that_is_saved_again_removes_the_later_ones(tmp_path):
    run = Checkpoints(tmp_path / "run", keep=3)
    for step in (10, 20, 30):
        run.save(step, tree(float(step)))
    run.save(20, tree(0.5))
    assert names(tmp_path / "run") == ["10", "20"]
    equal(run.restore(tree()), tree(0.5))


def test_threads_leave_the_process_as_it_was(tmp_path):
    before = asyncio.new_event_loop, logging.getLogger("absl").level

    def round_trip(i):
        checkpoints.save(tmp_path / str(i), tree(float(i)))
        equal(checkpoints.restore(tmp_path / str(i), tree()), tree(float(i)))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(round_trip, range(4)))
    assert (asyncio.new_event_loop, logging.getLogger("absl").level) == before


def test_a_negative_step_is_refused(tmp_path):
    with pytest.raises(ValueError, match="expected a step from 0 on, got -1"):
        Checkpoints(tmp_path).save(-1, tree())


@pytest.mark.parametrize(
    ("tree", "error", "message"),
    [
        ({}, ValueError, "expected a pytree with arrays to save, got an empty one"),
        ({"a": {"b": np.zeros([2, 0])}}, ValueError, r"got float64 \[2, 0\] at a/b: leave it out"),
        ({"a": [1.0, "x"]}, TypeError, "expected arrays and numbers to save, got str at a/1"),
        ({"w": {"x": 1.0}, "w.x": 2.0}, ValueError, "got two that are w.x with its parts joined"),
        ({"w": {"x": 1.0}, "w/x": 2.0}, ValueError, "got two that are w/x with its parts joined"),
    ],
)
def test_what_cannot_be_stored_is_refused_before_anything_is_written(
    tree, error, message, tmp_path
):
    with pytest.raises(error, match=message):
        checkpoints.save(tmp_path / "new", tree)
    assert not (tmp_path / "new").exists()


def test_no_checkpoint_to_keep_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one checkpoint to keep, got 0"):
        Checkpoints(tmp_path, keep=0)


# --- what is refused -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": jnp.float32(0)}, r"step: expected float32 \[\], got int32 \[\]"),
        ({"step": jnp.zeros(1, jnp.int32)}, r"step: expected int32 \[1\], got int32 \[\]"),
        ({"step": jax.random.key(0)}, r"step: expected key<fry> \[\], got int32 \[\]"),
        ({"step": 0}, r"step: expected int, got int32 \[\]"),
        ({"theta": {}}, r"theta/f/0: expected nothing, got float32 \[2, 3\]"),
        ({"empty": {"w": jnp.zeros(2)}}, r"empty/w: expected float32 \[2\], got nothing"),
    ],
)
def test_another_state_is_refused(change, message, tmp_path):
    checkpoints.save(tmp_path / "run", tree())
    with pytest.raises(ValueError, match=message) as error:
        checkpoints.restore(tmp_path / "run", tree() | change)
    assert str(tmp_path / "run") in str(error.value)
    assert "network and optimizer that it was saved with" in str(error.value)


def test_numbers_are_never_cast(tmp_path):
    saved = {"step": jnp.int32(16_777_217), "w": jnp.array([0.123456, 1.75])}
    checkpoints.save(tmp_path / "run", saved)
    for w in (jnp.zeros(2, jnp.int32), jnp.zeros(2, jnp.bfloat16), jnp.zeros(2, jnp.float16)):
        with pytest.raises(ValueError, match="expected .*, got float32"):
            checkpoints.restore(tmp_path / "run", saved | {"w": w})


# --- damage --------------------------------------------------------------------------------


def flips(folder):
    """Yields every file of a checkpoint with one bit after the other flipped, some of each."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    assert len(files) > 5
    for path in files:
        content = path.read_bytes()
        for at in range(0, len(content), 1 + len(content) // 6):
            damaged = bytearray(content)
            damaged[at] ^= 1 << at % 8
            path.write_bytes(damaged)
            yield path
        path.write_bytes(content)


def test_a_flipped_bit_is_never_restored(tmp_path):
    run = Checkpoints(tmp_path / "run")
    run.save(10, tree(1.0))
    run.save(20, tree(0.1))
    fallbacks = 0
    for _ in flips(tmp_path / "run" / "20"):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            restored = run.restore(tree())
        caught = [str(warning.message) for warning in caught if "damaged" in str(warning.message)]
        equal(restored, tree(1.0) if caught else tree(0.1))
        fallbacks += len(caught)
    assert fallbacks > 5


def largest(folder):
    return max(folder.rglob("*"), key=lambda path: path.is_file() and path.stat().st_size)


def damage(folder):
    """Changes one bit of the numbers of a checkpoint."""
    big = {"w": np.random.default_rng(0).random(10_000, np.float32)}
    run = Checkpoints(folder)
    for step in (10, 20):
        run.save(step, big | {"step": np.int32(step)})
    path = largest(folder / "20")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return run, big | {"step": np.int32(0)}


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path):
    run, like = damage(tmp_path / "run")
    with pytest.warns(UserWarning, match=r"run/20 is damaged .* restored .* step 10"):
        restored = run.restore(like)
    assert restored["step"] == 10
    np.testing.assert_array_equal(restored["w"], like["w"])
    run.save(20, restored | {"step": np.int32(20)})  # the training goes on and saves it again
    assert run.restore(like)["step"] == 20
    assert names(tmp_path / "run") == ["10", "20"]


def test_a_damaged_step_that_was_asked_for_is_refused(tmp_path):
    run, like = damage(tmp_path / "run")
    with pytest.raises(ValueError, match=r"run/20 is damaged \(w does not have the digest"):
        run.restore(like, step=20)


def test_damage_everywhere_is_one_sentence(tmp_path):
    run, like = damage(tmp_path / "run")
    (tmp_path / "run" / "10" / "digests" / "metadata").write_text("{}")
    with pytest.raises(ValueError, match="run/20 is damaged .*run/10 is damaged") as error:
        run.restore(like)
    assert "\n" not in str(error.value)
    assert f"delete {tmp_path / 'run'} to start from the beginning" in str(error.value)


def test_a_tree_without_its_files_is_damaged(tmp_path):
    checkpoints.save(tmp_path / "run", tree())
    for path in (tmp_path / "run").rglob("d/*"):
        path.unlink()
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path / 'run' / '1'} is damaged")):
        checkpoints.restore(tmp_path / "run", tree())


# --- interruptions -------------------------------------------------------------------------

CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate"}


class Interrupted(Exception):
    pass


class Disk:
    """Lets some changes of files happen, then none: what a killed process leaves on disk."""

    def __init__(self):
        self.allowed = None  # changes that may still happen; None for all
        sys.addaudithook(self)

    def __call__(self, event, arguments):
        if self.allowed is None:
            return
        writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if writes or event in CHANGES:
            if not self.allowed:
                raise Interrupted
            self.allowed -= 1


@pytest.fixture(scope="module")
def disk():
    return Disk()


def interrupted(disk, allowed, save, *arguments):
    """Returns whether ``save`` needs more changes of files than are allowed."""
    disk.allowed = allowed
    try:
        save(*arguments)
    except BaseException:
        return True
    finally:
        disk.allowed = None
    return False


@pytest.mark.slow
@pytest.mark.parametrize("keep", [1, 2])
def test_an_interruption_between_any_two_changes_keeps_a_whole_checkpoint(tmp_path, disk, keep):
    run = Checkpoints(tmp_path / "run", keep=keep)
    run.save(1, tree(1.0))
    step, changes, whole = 1, 0, False
    while not whole:
        whole = not interrupted(disk, changes, run.save, step + 1, tree(step + 1.0))
        changes += 1
        latest = run.latest_step()
        assert latest in (step, step + 1)
        equal(run.restore(tree()), tree(float(latest)))
        step = latest
    assert changes > 10
    run.save(step + 1, tree(step + 1.0))  # which removes what the others left behind
    assert names(tmp_path / "run") == sorted(str(step + 1 - i) for i in range(keep))


def test_one_tree_survives_interruptions_too(tmp_path, disk):
    checkpoints.save(tmp_path / "run", tree(1.0))
    for changes in range(0, 60, 3):
        interrupted(disk, changes, checkpoints.save, tmp_path / "run", tree(2.0))
        restored = checkpoints.restore(tmp_path / "run", tree())
        assert float(restored["theta"]["f"][0][0, 0]) in (1.0, 2.0)
        checkpoints.save(tmp_path / "run", tree(1.0))
        assert len(names(tmp_path / "run")) == 1


def test_reading_changes_nothing(tmp_path):
    run = Checkpoints(tmp_path / "run")
    run.save(1, tree())
    unfinished = tmp_path / "run" / "2.orbax-checkpoint-tmp-7"
    unfinished.mkdir()  # another process may be writing it
    equal(run.restore(tree()), tree())
    assert run.latest_step() == 1
    assert unfinished.exists()
    run.save(2, tree())
    assert names(tmp_path / "run") == ["1", "2"]


SAVING = """
import sys
import numpy as np
from dann_jax.checkpoints import Checkpoints
run = Checkpoints(sys.argv[1])
for step in range((run.latest_step() or 0) + 1, 10**6):
    run.save(step, {"step": np.int32(step), "w": np.full([300, 300], step, np.float32)})
    print(step, flush=True)
"""


@pytest.mark.slow
def test_a_killed_process_leaves_whole_checkpoints(tmp_path):
    run, random = Checkpoints(tmp_path / "run"), np.random.default_rng(0)
    like = {"step": np.int32(0), "w": np.zeros([300, 300], np.float32)}
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", SAVING, str(tmp_path / "run")],
            env=os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parents[1])},
            stdout=subprocess.PIPE,
            text=True,
        )
        for line in process.stdout:
            step = int(line)
            if step % 3 == 0:
                break
        time.sleep(random.uniform(0, 0.2))
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=SECONDS)
        restored = run.restore(like)
        assert restored["step"] >= step
        np.testing.assert_array_equal(restored["w"], np.full([300, 300], restored["step"]))


ON_A_FULL_DISK = """
import resource
import sys
import numpy as np
from dann_jax.checkpoints import Checkpoints
run, random = Checkpoints(sys.argv[1]), np.random.default_rng(0)
small, large = ({"w": random.random(size, np.float32)} for size in (1_000, 1_000_000))
run.save(1, small)
resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))
try:
    run.save(2, large)
except OSError as error:
    print(error)
assert (run.restore(small)["w"] == small["w"]).all()
run.save(2, small)
"""


@pytest.mark.slow
def test_a_checkpoint_that_cannot_be_written_is_one_sentence(tmp_path):
    process = subprocess.run(
        [sys.executable, "-c", ON_A_FULL_DISK, str(tmp_path / "run")],
        env=os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""
    assert re.fullmatch(
        r"expected to write the checkpoint \S+/run/2, got .*File too large.*: free some space .*\n",
        process.stdout,
    )
    assert names(tmp_path / "run") == ["1", "2"]


# --- several processes ---------------------------------------------------------------------

IN_PROCESSES = """
import sys
import time
import jax
import jax.numpy as jnp
import numpy as np
from dann_jax.checkpoints import Checkpoints
number = int(sys.argv[2])
jax.distributed.initialize(f"localhost:{sys.argv[1]}", 2, number)
run = Checkpoints(sys.argv[3])
like = {"w": jnp.zeros(3), "n": np.zeros(2, np.int64)}
if number == 0:
    for step in (1, 2, 3):  # the other one is not asked, so that waiting for it would hang
        run.save(step, {"w": jnp.full(3, float(step)), "n": np.full(2, step)})
else:
    while run.latest_step() != 3:
        time.sleep(0.05)
    try:
        run.save(4, like)  # orbax would leave out the arrays
    except RuntimeError as error:
        assert "expected process 0" in str(error) and "got 1" in str(error)
    else:
        raise AssertionError("saved")
restored = run.restore(like)
assert (restored["w"] == 3).all() and (restored["n"] == 3).all(), restored
"""


@pytest.mark.slow
def test_of_several_processes_one_saves_and_each_restores_by_itself(tmp_path):
    port = str(free_port())
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", IN_PROCESSES, port, str(i), str(tmp_path)],
            env=os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parents[1])},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(2)
    ]
    try:
        output = [process.communicate(timeout=SECONDS)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(output)


# --- folders of orbax's StandardCheckpointer, as earlier versions wrote them ----------------


def old_folder(path, content):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, content)


def test_folders_of_earlier_versions_can_be_restored(tmp_path):
    state = tree(0.1) | {"key": jax.random.key(3), "next_index": 6}
    old_folder(tmp_path / "state", state)
    restored = checkpoints.restore(tmp_path / "state", state)
    assert jax.random.bits(restored.pop("key")) == jax.random.bits(jax.random.key(3))
    assert restored.pop("next_index") == 6
    equal(restored, tree(0.1))
    checkpoints.save(tmp_path / "state", tree(0.2))  # a new tree takes its place
    equal(checkpoints.restore(tmp_path / "state", tree()), tree(0.2))


def test_folders_of_earlier_versions_are_refused_for_another_state(tmp_path):
    old_folder(tmp_path / "state", tree())
    with pytest.raises(ValueError, match=r"step: expected float32 .*, got int32 .* that wrote it"):
        checkpoints.restore(tmp_path / "state", tree() | {"step": jnp.float32(0)})


def test_damaged_folders_of_earlier_versions_are_named(tmp_path):
    old_folder(tmp_path / "state", tree())
    (tmp_path / "state" / "_METADATA").write_text("{")
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path / 'state'} is damaged")):
        checkpoints.restore(tmp_path / "state", tree())
