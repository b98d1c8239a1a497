"""Compiled programs are kept from run to run, and a broken folder of them does no harm."""

import os

import jax
import jax.numpy as jnp
import pytest
from rich.console import Console

from experiments import execute, runtime
from experiments.options import Options


@pytest.fixture
def cache(tmp_path):
    """A folder to keep programs in, for a test that may use JAX's cache."""
    jax.config.update("jax_enable_compilation_cache", True)
    yield tmp_path / "programs"
    jax.config.update("jax_enable_compilation_cache", False)
    runtime.keep_programs(None)


def compute():
    """Compiles and runs a program as a new process would."""
    jax.clear_caches()
    with runtime.counted() as compiled:
        x = jax.jit(lambda x: jnp.sin(x) @ jnp.cos(x).T)(jnp.arange(6.0).reshape(2, 3))
    return x.tolist(), compiled


def entries(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_programs_are_kept_and_give_the_same_bits(cache):
    runtime.keep_programs(cache)
    first, compiled = compute()
    assert compiled.programs > compiled.from_cache == 0
    assert compiled.seconds > 0
    second, again = compute()
    assert again.from_cache == again.programs == compiled.programs
    assert second == first
    assert entries(cache)


def test_no_folder_keeps_nothing(cache):
    runtime.keep_programs(cache)
    runtime.keep_programs(None)
    compute()
    assert compute()[1].from_cache == 0
    assert entries(cache) == []


def test_jax_can_switch_it_off(cache):
    jax.config.update("jax_enable_compilation_cache", False)
    runtime.keep_programs(cache)
    compute()
    assert compute()[1].from_cache == 0
    assert not cache.exists()


def test_broken_entries_are_warned_of_and_compiled_anew(cache):
    runtime.keep_programs(cache)
    first, _ = compute()
    for path in entries(cache):
        path.write_bytes(path.read_bytes()[:50])
    with pytest.warns(UserWarning, match="Error reading persistent compilation cache entry"):
        second, compiled = compute()
    assert compiled.from_cache == 0
    assert second == first


def test_a_folder_that_cannot_be_written_is_warned_of(cache, capsys):
    cache.write_text("not a folder")
    with pytest.raises(OSError, match="exists|directory"):
        runtime.keep_programs(cache)
    execute._keep_programs(cache, Console())
    told = " ".join(capsys.readouterr().out.split())
    assert "warning: compiled programs are not kept" in told
    assert compute()[1].from_cache == 0


def test_other_threads_and_processors_have_programs_of_their_own(cache, monkeypatch):
    runtime.keep_programs(cache)
    compute()
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(77))
    runtime.keep_programs(cache)
    assert compute()[1].from_cache == 0
    assert len(list(cache.iterdir())) == 2


def test_threads_are_counted_where_a_system_does_not_tell_of_its_processes(monkeypatch):
    for name in ("PJRT_NPROC", "NPROC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 77)
    assert runtime.threads() == 77
    assert "-77-threads-" in runtime.machine()


def test_simulated_devices_have_a_thread_each(devices, monkeypatch):
    for name in ("PJRT_NPROC", "NPROC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(1))
    assert (runtime.cores(), runtime.threads()) == (1, jax.local_device_count())


def test_the_folder_is_that_of_jax_where_it_has_one(monkeypatch, tmp_path):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))
    assert runtime.cache_folder() == tmp_path
    assert Options(config=None).compilation_cache == tmp_path
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    assert runtime.cache_folder().parts[-3:] == (".cache", "dann_jax", "compiled")


def test_counting_ends_with_its_context():
    _, compiled = compute()
    before = compiled.programs
    compute()
    assert compiled.programs == before > 0
