"""What the processes of a run say to each other, so that none outlives another that has died.

JAX's own check ends a process by an abort, with the stack of its C++, where the first one dies, and
lets it wait for any other. Here each process holds a socket to the first, which passes on what it
hears. A socket that closes is a death. So is silence: of a process that is stopped, or whose host
is gone. JAX reaches its service in the first process through a relay, which never lets it know that
the service is gone.
"""

import collections
import contextlib
import selectors
import socket
import threading
import time
from collections.abc import Callable

__all__ = ["DONE", "HOW", "JOIN", "Peers", "connect", "listen", "relay"]

BEAT = 1.0  # seconds between two signs of life
SILENCE = 20  # of them may be missing: the others end within 30 s
JOIN = 120.0  # seconds within which all processes are there
HOW = {  # another process ends this one
    "died": "has died",
    "left": "has ended, with a message of its own",
    "silent": f"has not answered for {SILENCE * BEAT:.0f} s",
    "late": f"is not there after {JOIN:.0f} s",
}
DONE = "done"
_NAME, _REFUSED = "dann_jax", "refused"  # words of a greeting


class Peers:
    """The connections of a process to the others, read by a thread of its own.

    All meet at a word that each says. When all have met at ``DONE``, they may leave.

    Args:
      index: Which of the processes this is. The others are connected to the first, 0.
      count: How many there are.
      end: Ends this process, where another is lost: which, and a key of ``HOW``.
      door: Where the others connect to the first.
      greeting: What they are told then.
      first: The connection to the first.
    """

    def __init__(
        self,
        index: int,
        count: int,
        end: Callable[[int, str], object],
        *,
        door: socket.socket | None = None,
        greeting: str = "",
        first: socket.socket | None = None,
    ):
        self.index, self.count, self.end, self.greeting = index, count, end, greeting
        self.said: collections.Counter[tuple[int, str]] = collections.Counter()
        self.changed = threading.Condition()  # held where words are said, and links made
        self.links: dict[int, socket.socket] = {}
        self.rest: dict[int, bytes] = {}  # the beginning of a line
        self.missed: dict[int, int] = {}  # signs of life, while this process runs
        self.selector = selectors.DefaultSelector()
        self.over = False
        if door is not None:
            self.selector.register(door, selectors.EVENT_READ)
        if first is not None:
            self._link(0, first)
        self.thread = threading.Thread(target=self._run, name="peers", daemon=True)
        self.thread.start()

    def meet(self, word: str, seconds: float | None = None) -> bool:
        """Returns whether all say a word as often as this process has, within so many seconds."""
        with self.changed:
            self._hear(self.index, word)
            times = self.said[self.index, word]
            return self.changed.wait_for(lambda: not self.missing(word, times), seconds)

    def missing(self, word: str, times: int = 1) -> list[int]:
        """Returns the processes that have not said a word so many times."""
        return [i for i in range(self.count) if self.said[i, word] < times]

    def lose(self, index: int, how: str) -> None:
        """Ends this process and, from the first one, all others, as one of them is lost."""
        with self.changed:  # for good: only once
            if not self.over:
                self.over = True
                self._send(f"{index} {how}\n", *self.links.values())
                self.end(index, how)

    def leave(self) -> None:
        """Tells the others that this process ends without them, which ends them."""
        with self.changed:
            self.over = True
            self._send(f"{self.index} left\n", *self.links.values())

    def _run(self):
        beat = time.monotonic() + BEAT
        while not self.over:
            for key, _ in self.selector.select(max(0.0, beat - time.monotonic())):
                if key.data is None:
                    self._welcome(key.fileobj.accept()[0])
                else:
                    self._read(key.data)
            if time.monotonic() >= beat:
                self._beat()
                beat = time.monotonic() + BEAT

    def _beat(self):
        self._send("\n", *self.links.values())
        for index in self.links:
            self.missed[index] += 1
            if self.missed[index] > SILENCE:
                self.lose(index, "silent")

    def _welcome(self, link):
        """Takes in another process, and tells it what was said before."""
        link.settimeout(BEAT)
        with contextlib.suppress(OSError, ValueError):  # whoever this is
            name, index, count = _line(link).split()
            if name == _NAME and self._takes(link, int(index), int(count)):
                return
        link.close()

    def _takes(self, link, index, count):
        with self.changed:
            if count != self.count or index in self.links or not 0 < index < count:
                self._send(f"{_REFUSED}\n", link)
                return False
            words = [f"{i} {word}\n" for (i, word), n in self.said.items() for _ in range(n)]
            self._send("".join([f"{self.greeting}\n", *words]), link)
            self._link(index, link)
            return True

    def _link(self, index, link):
        link.settimeout(BEAT)
        self.links[index], self.rest[index], self.missed[index] = link, b"", 0
        self.selector.register(link, selectors.EVENT_READ, data=index)

    def _read(self, index):
        data = b""
        with contextlib.suppress(OSError):
            data = self.links[index].recv(4096)
        if not data:
            self.selector.unregister(self.links[index])
            self.lose(index, "died")
            return
        self.missed[index] = 0
        *lines, self.rest[index] = (self.rest[index] + data).split(b"\n")
        for line in filter(None, lines):
            about, word = line.decode().split()
            self._hear(int(about), word, index)

    def _hear(self, about, word, link=None):
        """Takes a word about a process, which has come over a link, and passes it on."""
        if word in HOW:
            self.lose(about, word)
            return
        with self.changed:
            self.said[about, word] += 1
            self._send(f"{about} {word}\n", *(each for i, each in self.links.items() if i != link))
            self.over |= word == DONE and not self.missing(DONE)
            self.changed.notify_all()

    def _send(self, text, *links):
        for link in links:
            with contextlib.suppress(OSError):  # a connection that is closed is read as such
                link.sendall(text.encode())


def listen(port: int) -> socket.socket:
    """Returns a socket at a port of all addresses of this host, at any that is free for 0."""
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))


def connect(host: str, port: int, index: int, count: int) -> tuple[socket.socket, str]:
    """Returns the connection to the first process, which may start later, and its greeting.

    Raises:
      ValueError: The first process does not take this one in.
      OSError: It is not there after ``JOIN`` seconds.
    """
    end = time.monotonic() + JOIN
    while True:
        link = None
        try:
            link = socket.create_connection((host, port), timeout=5 * BEAT)
            link.sendall(f"{_NAME} {index} {count}\n".encode())
            greeting = _line(link)
            break
        except OSError:
            if link is not None:
                link.close()
            if time.monotonic() > end:
                raise
            time.sleep(BEAT / 4)
    if greeting == _REFUSED:
        link.close()
        raise ValueError(
            f"the first process, at {host}:{port}, expects another number of processes than "
            f"{count}, or has process {index} already: start each once, with the same --processes"
        )
    return link, greeting


def _line(link):
    """Returns a line, and reads nothing after it."""
    line = b""
    while not line.endswith(b"\n"):
        byte = link.recv(1)
        line += byte
        if not byte or len(line) > 80:
            raise ConnectionError("expected a greeting")
    return line[:-1].decode()


def relay(host: str, port: int) -> int:
    """Returns a port of this host that leads to another's; its connections never close first."""

    def carry(origin, goal):
        with contextlib.suppress(OSError):
            while data := origin.recv(1 << 16):
                goal.sendall(data)

    def serve():
        while True:
            near = door.accept()[0]
            while True:
                with contextlib.suppress(OSError):  # the service may start later
                    far = socket.create_connection((host, port))
                    break
                time.sleep(BEAT / 10)
            far.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for ends in ((near, far), (far, near)):
                threading.Thread(target=carry, args=ends, daemon=True).start()

    door = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=serve, name="relay", daemon=True).start()
    return door.getsockname()[1]
