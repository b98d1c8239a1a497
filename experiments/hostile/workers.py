"""Trials in processes of their own: one that crashes or hangs ends with its trial alone."""

import collections
import multiprocessing
import os
import pathlib
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from multiprocessing import connection
from typing import NamedTuple

import jax

from experiments.hostile.outcomes import Outcome
from experiments.hostile.readers import Reader
from experiments.hostile.trials import Trials

__all__ = ["Job", "run_jobs", "seed_of"]

_START = 300  # seconds to import and to write and read the valid file
_READY = "ready"


class Job(NamedTuple):
    """Some trials of a reader, one after the other."""

    name: str
    reader: Reader
    seed: int
    numbers: Sequence[int]


def seed_of(job: Job, number: int) -> str:
    """Returns what a trial is a function of."""
    return f"{job.seed} {job.name} {number}"


def run_jobs(
    jobs: Iterable[Job],
    report: Callable[[str, int, Outcome], None],
    *,
    workers: int,
    timeout: float,
    memory: int,
) -> None:
    """Runs all jobs, and reports name, number and outcome of each trial.

    Args:
      jobs: What to do.
      report: Called for each trial.
      workers: Number of processes.
      timeout: Seconds that a trial may take.
      memory: Bytes that a trial may allocate beside what the process has.
    """
    waiting = collections.deque(jobs)
    running: dict[connection.Connection, _Worker] = {}
    folder = tempfile.TemporaryDirectory()  # what a process that is ended leaves goes with it
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                worker = _Worker(waiting.popleft(), memory, folder.name)
                running[worker.connection] = worker
            for ready in connection.wait(list(running), timeout=0.5):
                worker = running[ready]
                try:
                    worker.receive(report)
                except EOFError:
                    worker.end(timeout)
                    del running[ready]
                    worker.lost(report, waiting, "crashed", f"exit status {worker.exitcode}")
            for worker in [w for w in running.values() if w.is_late(timeout)]:
                worker.end()
                del running[worker.connection]
                worker.lost(report, waiting, "hung", f"more than {timeout:g} s")
    finally:
        for worker in running.values():
            worker.end()
        folder.cleanup()


class _Worker:
    """A process that does one job."""

    def __init__(self, job, memory, folder):
        self.job, self.done, self.is_ready, self.heard = job, 0, False, time.monotonic()
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe(duplex=False)
        self.process = context.Process(
            target=_work, args=(job, memory, folder, theirs), daemon=True
        )
        self.process.start()
        theirs.close()  # or the end of the process would not be noticed

    def receive(self, report):
        """Takes the next message."""
        message, self.heard = self.connection.recv(), time.monotonic()
        if message == _READY:
            self.is_ready = True
            return
        report(self.job.name, self.job.numbers[self.done], message)
        self.done += 1

    def is_late(self, timeout):
        """Returns whether the process has been silent for too long."""
        return time.monotonic() - self.heard > (timeout if self.is_ready else _START)

    def end(self, wait=0.0):
        """Ends the process, unless it ends by itself within some seconds."""
        self.process.join(wait)
        self.process.kill()
        self.process.join()
        self.exitcode = self.process.exitcode
        self.connection.close()

    def lost(self, report, waiting, kind, error):
        """Reports the trial at which the process ended, and puts back the trials after it."""
        if self.done == len(self.job.numbers):
            return
        if not self.is_ready:
            raise RuntimeError(f"{self.job.name}: the valid file could not be read ({error})")
        report(self.job.name, self.job.numbers[self.done], Outcome(kind, error))
        rest = self.job.numbers[self.done + 1 :]
        if rest:
            waiting.appendleft(self.job._replace(numbers=rest))


def _work(job, memory, folder, answers):
    """Does the trials of a job in a process of its own."""
    jax.config.update("jax_platforms", "cpu")
    trials = Trials(job.reader, pathlib.Path(tempfile.mkdtemp(dir=folder)))
    # Native decoders write what they find to the standard error.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    _limit(memory)
    answers.send(_READY)
    for number in job.numbers:
        answers.send(trials.run(seed_of(job, number)))
    answers.close()


def _limit(memory):
    """Limits what the process may allocate from now on, where the system has such a limit."""
    if sys.platform == "linux":
        pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + memory, most))
