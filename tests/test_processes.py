"""The command line in two processes has the numbers of one process with two devices."""

import atexit
import contextlib
import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils
from test_distributed import free_port
from test_together import small_config

from experiments import execute, peers, processes, record, run

pytestmark = pytest.mark.usefixtures("quick_compilation")

SECONDS = 300  # after which the processes are given up


def call(*options):
    with small_config():
        return run.main(["small", "--methods", "dann", "--steps", "4", *options])


@contextlib.contextmanager
def started(*options):
    """Yields the command line in two processes."""
    environment = os.environ | {
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "PYTHONPATH": str(pathlib.Path(__file__).parents[1]),
        "PYTHONUNBUFFERED": "1",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=1",
    }
    where = ["--distributed", "--coordinator", f"localhost:{free_port()}", "--processes", "2"]
    every = [
        subprocess.Popen(
            [sys.executable, "-W", "error", __file__, *where, "--process-id", str(i), *own],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i, own in enumerate(options)
    ]
    try:
        yield every
    finally:
        for process in every:
            process.kill()
            process.communicate()


def call_in_processes(*options):
    """Runs the command line in two processes, and returns their statuses and what they told."""
    with started(*options) as every:
        told = [process.communicate(timeout=SECONDS)[0] for process in every]
    return [process.returncode for process in every], told


@pytest.mark.slow
def test_two_processes_have_the_numbers_of_two_devices(devices, tmp_path):
    output = ["--output", str(tmp_path / "two")]
    codes, told = call_in_processes(output, output)
    assert codes == [0, 0], "\n".join(told)
    assert "dann key 0 step 4" in told[0]
    assert "dann key 0" not in told[1]
    assert call("--output", str(tmp_path / "one"), "--devices", "2") == 0
    found, expected = (
        json.loads((tmp_path / name / "small" / "dann.json").read_text()) for name in ("two", "one")
    )
    assert (found["device_count"], found["process_count"]) == (2, 2)
    assert (expected["device_count"], expected["process_count"]) == (2, 1)
    for kind in ("training", "evaluations"):
        for name, values in expected["curves"][0][kind].items():
            assert found["curves"][0][kind][name] == pytest.approx(values, abs=1e-5), name
    assert (tmp_path / "two" / "small" / "dann" / "key_0" / "state").is_dir()


def test_processes_that_have_not_found_the_same_files_are_refused(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    found = np.array([[5], [5], [5]])
    monkeypatch.setattr(multihost_utils, "process_allgather", lambda _: found)
    processes.check_agreement(5, "records")
    found[2] = 6
    with pytest.raises(ValueError, match="not found the same records: make --output"):
        processes.check_agreement(5, "records")


def test_where_one_process_fails_all_do(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    told = []
    monkeypatch.setattr(
        multihost_utils, "process_allgather", lambda n: told.append(int(n)) or np.array([[n], [1]])
    )
    with pytest.raises(OSError, match="of its own"), processes.all_or_none():
        raise OSError("of its own")
    with pytest.raises(ValueError, match="another process has failed"), processes.all_or_none():
        pass
    assert told == [1, 0]


def test_no_process_waits_for_a_first_that_has_failed(tmp_path):
    output = ["--output", str(tmp_path)]
    with record.alone(tmp_path / "small"):
        codes, told = call_in_processes(output, output)
    assert codes == [2, 2], "\n".join(told)
    assert "another process is training into" in told[0]
    assert "another process has failed" in told[1]


@pytest.mark.slow  # 15 s
def test_a_process_that_dies_ends_the_other_with_one_sentence(tmp_path):
    options = ["--output", str(tmp_path), "--steps", "1000000", "--evaluate-every", "10"]
    with started(options, options) as (first, other):
        for line in first.stdout:
            if "dann key 0 step 20" in line:
                break
        first.kill()
        told, _ = other.communicate(timeout=30)
    assert other.returncode == processes.DIED == 75, told
    lines = [line for line in told.splitlines() if line and not line.startswith("[Gloo]")]
    assert lines == [
        "error: process 0 (the first is 0) has died: start all of them again with the same "
        "command, which goes on from the last checkpoint"
    ]


class Others:
    """Other processes, which say what this one says, or nothing."""

    def __init__(self, follow):
        self.follow, self.words, self.left = follow, [], []

    def meet(self, word, seconds=None):
        self.words.append((word, seconds))
        return self.follow


def beside(monkeypatch, follow):
    """Puts others beside this process, and makes leaving them a SystemExit."""

    def leave(status):
        others.left.append(status)
        raise SystemExit(status)

    others = Others(follow)
    monkeypatch.setattr(processes, "_peers", others)
    monkeypatch.setattr(processes, "leave", leave)
    monkeypatch.setattr(atexit, "register", lambda _: None)
    return others


def test_a_program_ends_when_all_others_do(monkeypatch):
    others = beside(monkeypatch, True)
    assert processes.together(lambda: 0)() == 0
    assert processes.together(lambda: 3)() == 3
    (_, patience), (_, short) = others.words
    assert patience is None  # the first may still be at work
    assert short < 30


def test_a_program_that_fails_alone_leaves(monkeypatch, capsys):
    def fail(*_):
        raise RuntimeError("of its own")

    others = beside(monkeypatch, False)
    for program in (lambda: 2, fail):
        with pytest.raises(SystemExit):
            processes.together(program)()
    assert others.left == [2, 1]
    assert "RuntimeError: of its own" in capsys.readouterr().err


@pytest.mark.parametrize("together", [True, False])
def test_rows_go_on_where_all_processes_fail_alike(together, monkeypatch, capsys, tmp_path):
    def fail(*_):
        raise OSError("of its own")

    others = beside(monkeypatch, together)
    monkeypatch.setattr(execute, "execute", fail)
    ends = contextlib.nullcontext() if together else pytest.raises(SystemExit)
    with ends:
        assert call("--output", str(tmp_path)) == 2
    assert [word for word, _ in others.words] == ["failed", "done"]
    assert others.left[:1] == ([] if together else [2])
    assert "error: of its own" in capsys.readouterr().err


def test_a_cluster_says_where_the_first_process_is(monkeypatch):
    joined, started = [], []
    found = "node7:8476", 3, 2, [0]
    detect = "auto_detect_unset_distributed_params"
    monkeypatch.setattr(processes.clusters.ClusterEnv, detect, lambda *_: found)
    monkeypatch.setattr(processes, "_join", lambda *where: joined.append(where) or 5000)
    monkeypatch.setattr(jax.distributed, "initialize", lambda *a, **_: started.append(a))
    monkeypatch.setattr(processes.peers, "relay", lambda host, port: port + 1)
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    processes.start(None, None, None)
    assert joined == [("node7", 8476, 2, 3)]
    assert started == [("127.0.0.1:5001", 3, 2)]


@pytest.mark.parametrize(
    ("where", "hint"),
    [
        (("localhost", 2, 0), "expected --coordinator HOST:PORT .* got localhost, 0 and 2"),
        (("localhost:1", 2, 2), "from 0 to below --processes, got localhost:1, 2 and 2"),
        ((None, None, None), "cannot find .*: add --coordinator HOST:PORT --processes N"),
    ],
)
def test_processes_that_cannot_find_each_other_are_told_how(where, hint, monkeypatch):
    detect = "auto_detect_unset_distributed_params"  # outside of a cluster
    monkeypatch.setattr(processes.clusters.ClusterEnv, detect, lambda *_: (None,) * 4)
    with pytest.raises(ValueError, match=hint):
        processes.start(*where)


def test_a_port_that_is_taken_is_named():
    with peers.listen(0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"port {port} .*: choose another --coordinator"):
            processes.start(f"localhost:{port}", 2, 0)


if __name__ == "__main__":
    sys.exit(call(*sys.argv[1:]))


def test_results_are_read_before_jax_computes_anything():
    """Several processes read what is there before they find each other."""
    program = (
        "import pathlib; from experiments import result_tables; from jax._src import xla_bridge; "
        "result_tables.read(pathlib.Path('experiments/results')); "
        "print(xla_bridge.backends_are_initialized())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.split() == ["False"], done.stderr
