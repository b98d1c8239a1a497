"""Images made block by block: the same whatever the number of processes."""

import os

import numpy as np
import pytest

from dann_jax.datasets import blocks

SIZE = 4 * blocks._BLOCK + 7  # two blocks a process and a rest


def images(seed, stream, start, stop):
    """Tiny images that tell who they are."""
    i = np.arange(start, stop)[:, None, None, None]
    return ((7 * i + seed + np.full((2, 2, 3), len(stream))) % 251).astype(np.uint8)


def broken(seed, stream, start, stop):
    if start:
        raise ValueError(f"no image {start}")
    return images(seed, stream, start, stop)


def talkative(seed, stream, start, stop):
    print("a line that is no pixels")
    return images(seed, stream, start, stop)


def test_bytes_and_order_are_the_same_for_any_number_of_processes():
    whole = images(3, "train", 0, SIZE)
    for processes in (None, 1, 2, 3):
        made = list(blocks.generate(images, 3, "train", SIZE, processes=processes))
        np.testing.assert_array_equal(made, whole)


def loud(seed, stream, start, stop):
    os.write(1, b"what a library in C says " * 10_000)
    return images(seed, stream, start, stop)


def test_what_a_library_prints_does_not_end_up_among_the_pixels():
    made = list(blocks.generate(loud, 0, "train", SIZE, processes=2))
    np.testing.assert_array_equal(made, images(0, "train", 0, SIZE))


def test_what_a_renderer_prints_does_not_end_up_among_the_pixels():
    made = list(blocks.generate(talkative, 0, "train", SIZE, processes=2))
    np.testing.assert_array_equal(made, images(0, "train", 0, SIZE))


def test_a_failing_process_is_reported_with_what_it_said():
    with pytest.raises(ChildProcessError, match=r"status 1 and said: ValueError: no image \d+"):
        list(blocks.generate(broken, 0, "train", SIZE, processes=2))


def test_stopping_early_ends_the_processes(monkeypatch):
    started = []
    popen = blocks.subprocess.Popen
    monkeypatch.setattr(
        blocks.subprocess, "Popen", lambda *a, **k: started.append(popen(*a, **k)) or started[-1]
    )
    some = blocks.generate(images, 0, "train", SIZE, processes=2)
    next(some)
    some.close()
    assert len(started) == 2
    assert all(process.poll() is not None for process in started)


def test_no_process_at_all_is_refused():
    with pytest.raises(ValueError, match="at least 1 process, got 0"):
        next(blocks.generate(images, 0, "train", 5, processes=0))
