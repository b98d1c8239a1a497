"""The command line in two processes has the numbers of one process with two devices."""

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

from experiments import processes, record, run

pytestmark = pytest.mark.usefixtures("quick_compilation")

SECONDS = 300  # after which the processes are given up


def call(*options):
    with small_config():
        return run.main(["small", "--methods", "dann", "--steps", "4", *options])


def call_in_processes(*options):
    """Runs the command line in two processes, and returns their statuses and what they told."""
    environment = os.environ | {
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "PYTHONPATH": str(pathlib.Path(__file__).parents[1]),
        "XLA_FLAGS": "--xla_force_host_platform_device_count=1",
    }
    where = ["--distributed", "--coordinator", f"localhost:{free_port()}", "--processes", "2"]
    started = [
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
        told = [process.communicate(timeout=SECONDS)[0] for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()
    return [process.returncode for process in started], told


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


@pytest.mark.parametrize(
    ("where", "hint"),
    [
        (("localhost", 2, 0), "expected --coordinator HOST:PORT .* got localhost, 0 and 2"),
        (("localhost:1", 2, 2), "from 0 to below --processes, got localhost:1, 2 and 2"),
        ((None, None, None), "cannot find .*: add --coordinator HOST:PORT --processes N"),
    ],
)
def test_processes_that_cannot_find_each_other_are_told_how(where, hint, monkeypatch):
    def initialize(*_):
        raise ValueError("coordinator_address should be defined.")  # outside of a cluster

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    with pytest.raises(ValueError, match=hint):
        processes.start(*where)


if __name__ == "__main__":
    sys.exit(call(*sys.argv[1:]))
