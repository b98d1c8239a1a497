"""SIGINT and SIGTERM: a training saves what it has done and then ends, anything else ends at once.

A signal is never lost. It is kept, too, where something else swallows the exception that it raises,
as a callback of JAX may, and ends the run at the next ``check``.
"""

import contextlib
import dataclasses
import os
import signal
import threading
import time
from collections.abc import Iterator

__all__ = ["ELSEWHERE", "Interruption", "check", "handled", "held", "install", "raised", "received"]

SIGNALS = signal.SIGINT, signal.SIGTERM
AT_ONCE = 0.3  # seconds within which signals are one: timeout(1) sends each of its own twice
ELSEWHERE = "what is finished is kept, and the same command does the rest"


class Interruption(KeyboardInterrupt):
    """The end of a run that a signal asks for; the text says what was saved."""

    def __init__(self, number: int, saved: str = ELSEWHERE):
        """Takes the number of the signal."""
        super().__init__(saved)
        self.status = 128 + number  # as shells have it: 130 for SIGINT, 143 for SIGTERM


@dataclasses.dataclass
class _Signals:
    first: int = 0  # the number of the first signal; 0 for none
    are_held: bool = False  # whether a training looks for them by itself


_NOW = _Signals()


def received() -> int:
    """Returns the number of the first signal, 0 where none has come."""
    return _NOW.first


def check() -> None:
    """Raises an ``Interruption`` where a signal has come."""
    if _NOW.first:
        raise Interruption(_NOW.first)


@contextlib.contextmanager
def handled() -> Iterator[None]:
    """Handles the signals of the process until its end; a second one ends the process at once."""
    if threading.current_thread() is not threading.main_thread():  # which alone gets signals
        yield
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = {number: signal.getsignal(number) for number in SIGNALS}
    _NOW.first, wakeup = 0, signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    # Python's own handlers wait until a compilation ends, a thread does not.
    watch = threading.Thread(target=_end_at_the_second, args=(reader,), daemon=True)
    watch.start()
    try:
        install()
        yield
        check()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup)
        os.close(writer)
        watch.join()
        os.close(reader)
        _NOW.first = 0


def install() -> None:
    """Sets the handlers of ``handled``, again where others have taken their place."""
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            signal.signal(number, _keep)


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Signals raise nothing until its end: the caller looks at ``received`` and ends by itself."""
    check()
    with _holding(True):
        yield
    check()


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """Signals raise an ``Interruption`` until its end, inside ``held``."""
    with _holding(False):
        check()
        yield


@contextlib.contextmanager
def _holding(value):
    before, _NOW.are_held = _NOW.are_held, value
    try:
        yield
    finally:
        _NOW.are_held = before


def _keep(number, _):
    _NOW.first = _NOW.first or number
    if not _NOW.are_held:
        check()


def _end_at_the_second(reader):
    """Ends the process when a second signal has come; returns when the pipe is closed."""
    first = None
    while number := os.read(reader, 1):
        if number[0] not in SIGNALS:
            continue
        if first is None:
            first = time.monotonic()
            os.write(2, b"stopping: a second signal ends the process at once\n")
        elif time.monotonic() > first + AT_ONCE:
            os._exit(128 + number[0])
