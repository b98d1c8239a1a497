"""Flips a bit in the folder of a run, which then goes on, and compares what it ends with."""

import contextlib
import dataclasses
import io
import pathlib
import random
import shutil
import signal
import tempfile
import time
import warnings
from collections import Counter
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
from rich.console import Console
from rich.progress import track

from dann_jax import checkpoints
from experiments import record, run, runtime
from experiments.hostile.outcomes import FAILURES, Outcome
from experiments.hostile.tables import in_terminal
from experiments.hostile.trials import fingerprint
from experiments.methods import METHODS

__all__ = ["PLACES", "Corruptions", "Run"]

FORMAT = 1  # of the file that is written
CONFIG = "own_pair"
METHOD = next(method for method in METHODS.values() if method.bound == "lower")
NUMBERS = {  # entries of a result that a disturbance must not change
    *("keys", "steps", "data", "curves", "source_accuracy", "target_accuracy", "mean", "std"),
    *("svm_accuracy", "svm_mean", "svm_std", "diverged", "digests"),
}
_SIDE, _IMAGES = 28, 12  # pixels, and images of each of two classes
_SETTINGS = (
    f"--methods {METHOD.name} --image-size {_SIDE} --steps 4 --batch-size 8 --evaluate-every 1 "
    "--checkpoint-every 1"
).split()
_SAVES = 2  # checkpoints after which the run is cut off
_LETTERS = 300  # of a message that are kept


class Place(NamedTuple):
    """Where bits are flipped."""

    snapshot: str  # "new", data alone; "cut off", in the middle; "finished", without the SVM
    files: str  # a pattern
    checked: bool = True  # whether a checksum covers them


_KEY = f"runs/{CONFIG}/{METHOD.name}/key_0"
PLACES = {
    "last checkpoint": Place("cut off", f"{_KEY}/checkpoint/{{last}}/**/*"),
    "checkpoints": Place("cut off", f"{_KEY}/checkpoint/**/*"),
    "record": Place("cut off", f"{_KEY}/record.json"),
    "prepared arrays": Place("cut off", "data/**/*.npy"),
    "prepared arrays of a new run": Place("new", "data/**/*.npy"),
    "prepared information": Place("cut off", "data/**/*.json"),
    "prepared records": Place("cut off", "data/**/*array_record*"),
    "state": Place("finished", f"{_KEY}/state/**/*"),
    "result file": Place("finished", f"runs/{CONFIG}/*.json", checked=False),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Corruptions:
    """Flips a bit in the folder of a run, which then goes on, and compares what it ends with."""

    count: int = 45
    """Number of flipped bits, each in a run of its own; the places take turns."""

    output: pathlib.Path | None = None
    """JSON file of the counts."""

    seed: int = 0
    """Each bit is a function of this and a number."""

    def run(self, console: Console) -> int:
        """Runs all trials and returns 0, or 1 where one failed."""
        if self.count < 1:
            raise ValueError(f"expected a --count of at least 1, got {self.count}")
        started, failures = time.monotonic(), []
        outcomes = {name: Counter() for name in PLACES}
        with tempfile.TemporaryDirectory() as folder:
            trials = Run(pathlib.Path(folder))
            for number in track(range(self.count), "corruptions", console=console):
                name = list(PLACES)[number % len(PLACES)]
                outcome = trials.disturbed(name, f"{self.seed} {name} {number}")
                outcomes[name][outcome.kind] += 1
                if outcome.kind in FAILURES:
                    about = {"place": name, "number": number, "outcome": outcome.kind}
                    failures.append(about | {"error": outcome.error})
        if self.output is not None:
            content = self._content(outcomes, failures, time.monotonic() - started)
            record.write_json(self.output, content)
        console.print(in_terminal(outcomes))
        for each in failures:
            console.print("{place}, {number}: {outcome} {error}".format(**each), markup=False)
        return 1 if failures else 0

    def _content(self, outcomes, failures, seconds) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "program": "corruptions",
            "count": self.count,
            "failed": len(failures),
            "seed": self.seed,
            "seconds": round(seconds, 1),
            "processor": runtime.processor(),
            "versions": runtime.versions(),
            "cases": {
                name: {"checksum": PLACES[name].checked, "trials": counts.total(), **counts}
                for name, counts in outcomes.items()
            },
            "failures": failures,
        }


class Run:
    """A small run, in the middle and finished, to disturb.

    Args:
      folder: An empty folder.
    """

    def __init__(self, folder: pathlib.Path):
        self.folder, self.work = folder, folder / "work"
        for seed, domain in enumerate(("source", "target")):
            _write_images(folder / domain, seed)
        with _cut_off():
            status, text = self._main("--no-svm")
        if status != 130:
            raise RuntimeError(f"expected a run that is cut off, got status {status}: {text}")
        shutil.copytree(self.work, folder / "cut off")
        shutil.copytree(self.work / "data", folder / "new" / "data")
        self._main("--no-svm", expected=0)
        shutil.copytree(self.work, folder / "finished")
        self._main("--svm", expected=0)
        self.numbers = self._numbers()

    def disturbed(self, name: str, seed: str) -> Outcome:
        """Flips a bit in a place of the run, goes on and returns the outcome."""
        place, chance = PLACES[name], random.Random(seed)
        shutil.rmtree(self.work)
        shutil.copytree(self.folder / place.snapshot, self.work)
        steps = (int(path.name) for path in (self.work / _KEY / "checkpoint").glob("[0-9]*"))
        pattern = place.files.format(last=max(steps, default=0))
        files = sorted(p for p in self.work.glob(pattern) if p.is_file() and p.stat().st_size)
        path = chance.choice(files)
        content = bytearray(path.read_bytes())
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        path.write_bytes(content)
        where = path.relative_to(self.work).as_posix()
        try:
            status, text = self._main("--svm")
        except Exception as error:
            return Outcome("undocumented", f"{where}: {type(error).__name__}: {error}"[:_LETTERS])
        if status:
            lines = [line for line in text.splitlines() if line.startswith("error: ")]
            clear = status == 2 and len(lines) == 1 and "Traceback" not in text
            return Outcome("refused" if clear else "unclear", f"{where}: {text}"[:_LETTERS])
        if self._numbers() == self.numbers:
            return Outcome("same")
        return Outcome("wrong" if place.checked else "another", where)

    def _main(self, *options, expected=None):
        """Runs the program in this process and returns its status and what it wrote as errors."""
        domains = [f"--{name}={self.folder / name}" for name in ("source", "target")]
        places = [f"--output={self.work / 'runs'}", f"--data-dir={self.work / 'data'}"]
        cache = f"--compilation-cache={self.folder / 'compiled'}"
        errors = io.StringIO()
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(errors),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")  # of what is made anew
            status = run.main([CONFIG, *domains, *places, cache, *_SETTINGS, *options])
        if expected not in (None, status):
            raise RuntimeError(f"expected status {expected}, got {status}: {errors.getvalue()}")
        return status, errors.getvalue()

    def _numbers(self):
        result = record.read(self.work / "runs" / CONFIG / f"{METHOD.name}.json")
        return fingerprint({name: result.get(name) for name in sorted(NUMBERS)})


def _write_images(folder, seed):
    """Writes images whose classes differ in brightness."""
    from PIL import Image

    random = np.random.default_rng(seed)
    for name, bright in (("cat", 250), ("dog", 60)):
        (folder / name).mkdir(parents=True)
        for i in range(_IMAGES):
            pixels = (random.random((_SIDE, _SIDE, 3)) * bright).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")


@contextlib.contextmanager
def _cut_off():
    """Interrupts the process, as Ctrl-C does, at one of the first checkpoints."""
    save, steps = checkpoints.Checkpoints.save, []

    def interrupted(self, step, tree):
        save(self, step, tree)
        steps.append(step)
        if len(steps) == _SAVES:
            signal.raise_signal(signal.SIGINT)

    with mock.patch.object(checkpoints.Checkpoints, "save", interrupted):
        yield
