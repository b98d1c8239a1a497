"""Processes that are connected learn of each other's death, and of nothing that is none."""

import contextlib
import queue
import socket
import threading

import pytest

from experiments import peers

SECONDS = 10  # after which a test is given up


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(peers, "BEAT", 0.2)


@contextlib.contextmanager
def processes(count, present=None):
    """Yields the peers of so many processes, and queues of what would end each of them."""
    door = peers.listen(0)
    port = door.getsockname()[1]
    ends = [queue.Queue() for _ in range(count)]

    def end(own):
        return lambda index, how: ends[own].put((index, how))

    every = [peers.Peers(0, count, end(0), door=door, greeting="1234")]
    for i in range(1, count if present is None else present):
        first, greeting = peers.connect("localhost", port, i, count)
        assert greeting == "1234"
        every.append(peers.Peers(i, count, end(i), first=first))
    try:
        yield every, ends, port
    finally:
        close(*every)
        door.close()


def close(*every):
    for each in every:
        each.over = True
    for each in every:
        each.thread.join()
        for link in each.links.values():
            link.close()


def all_meet(every, word):
    said = queue.Queue()
    threads = [
        threading.Thread(target=lambda each=each: said.put(each.meet(word, SECONDS)))
        for each in every
    ]
    for thread in threads:
        thread.start()
    return all(said.get(timeout=SECONDS) for _ in threads)


def test_all_processes_meet_and_leave():
    with processes(3) as (every, ends, _):
        for word in ("joined", "failed", "failed", peers.DONE):
            assert all_meet(every, word)
        assert all(each.over for each in every)
        close(*every)
        assert all(end.empty() for end in ends)


def test_a_word_said_by_some_or_too_rarely_is_no_meeting():
    with processes(2) as (every, ends, _):
        assert all_meet(every, "failed")
        assert not every[1].meet("failed", 0.1)
        assert every[0].missing("failed", 2) == [0]
        assert all(end.empty() for end in ends)


@pytest.mark.parametrize("dead", [0, 1, 2])
def test_all_others_learn_which_process_has_died(dead):
    with processes(3) as (every, ends, _):
        assert all_meet(every, "joined")
        close(every[dead])
        for i in {0, 1, 2} - {dead}:
            assert ends[i].get(timeout=SECONDS) == (dead, "died")


@pytest.mark.parametrize("leaving", [0, 2])
def test_all_others_learn_which_process_has_left(leaving):
    with processes(3) as (every, ends, _):
        assert all_meet(every, "joined")
        every[leaving].leave()
        close(every[leaving])
        for i in {0, 1, 2} - {leaving}:
            assert ends[i].get(timeout=SECONDS) == (leaving, "left")


def test_a_process_that_is_silent_is_lost(monkeypatch):
    monkeypatch.setattr(peers, "SILENCE", 4)
    with processes(3, present=2) as (every, ends, port):
        stopped, _ = peers.connect("localhost", port, 2, 3)
        with stopped:
            assert ends[0].get(timeout=SECONDS) == (2, "silent")
            assert ends[1].get(timeout=SECONDS) == (2, "silent")
            assert ends[0].empty()


def test_a_process_that_never_comes_is_lost():
    with processes(3, present=2) as (every, ends, _):
        assert not every[0].meet("joined", 0.1)
        assert every[0].missing("joined") == [1, 2]
        every[0].lose(2, "late")
        assert [end.get(timeout=SECONDS) for end in ends[:2]] == [(2, "late")] * 2


def test_processes_of_another_run_are_refused():
    with processes(3, present=2) as (every, ends, port):
        for index, count in [(1, 3), (2, 4)]:
            with pytest.raises(ValueError, match=f"expects another number .* than {count}, or has"):
                peers.connect("localhost", port, index, count)
        with socket.create_connection(("localhost", port)) as stranger:
            stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
            with contextlib.suppress(ConnectionResetError):
                assert stranger.recv(1) == b""
        assert ends[0].empty()
        last, _ = peers.connect("localhost", port, 2, 3)
        last.close()
        assert ends[1].get(timeout=SECONDS) == (2, "died")


def test_the_first_process_may_start_last():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    greetings = queue.Queue()
    arguments = "localhost", port, 1, 2
    other = threading.Thread(target=lambda: greetings.put(peers.connect(*arguments)))
    other.start()
    with peers.listen(port) as door:
        first = peers.Peers(0, 2, lambda *_: None, door=door, greeting="5")
        link, greeting = greetings.get(timeout=SECONDS)
        link.close()
        close(first)
    assert greeting == "5"


def test_a_relay_carries_both_ways_and_hides_the_end():
    with socket.create_server(("localhost", 0)) as service:
        port = peers.relay("localhost", service.getsockname()[1])
        with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as near:
            far, _ = service.accept()
            with far:
                near.sendall(b"question")
                assert far.recv(100) == b"question"
                far.sendall(b"answer")
                assert near.recv(100) == b"answer"
            near.settimeout(0.2)
            with pytest.raises(TimeoutError):
                near.recv(1)
