"""Freed memory stays with the process where its C library can be told so."""

import pathlib
import platform
import subprocess
import sys

import pytest

from dann_jax import memory

ROOT = pathlib.Path(__file__).parents[1]
KEEP = "from dann_jax.memory import keep_freed_memory; print(keep_freed_memory())"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="asks glibc")
def test_glibc_is_told_to_keep_freed_memory():
    # In a process of its own: what it sets cannot be taken back.
    told = subprocess.check_output([sys.executable, "-c", KEEP], cwd=ROOT, text=True)
    assert told == "True\n"


def test_nothing_is_done_on_other_systems(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert memory.keep_freed_memory() is False
