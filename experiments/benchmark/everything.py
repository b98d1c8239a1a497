"""All measurements in one call, the most important first, within the minutes that there are."""

import math
import pathlib
import tempfile
import time

from experiments.benchmark import arrays
from experiments.benchmark.cases import PRECISIONS, PRECISIONS_OF_OTHERS, Benchmark
from experiments.benchmark.course import Course, Task, stops
from experiments.benchmark.equality import NETWORKS, Equality
from experiments.benchmark.isolated import Worker, failure

__all__ = ["CONFIG", "KEYS", "run"]

CONFIG, KEYS = "mnist_mnist_m", (0, 1, 2, 3, 4)
OF_EQUALITY, OF_TRAINING = 0.15, 0.2  # shares of the minutes, at most and at least
END = 5.0  # seconds in which the last file is written


def run(benchmark: Benchmark) -> None:
    """Compares with the CPU's numbers, measures all cases and trains; writes as it goes."""
    if benchmark.options.data_dir is not None:
        arrays.check(benchmark.options.data_dir)
    now = time.monotonic()
    until = benchmark.until - END
    minutes = until - now if until < math.inf else math.inf
    _equality(benchmark, min(now + OF_EQUALITY * minutes, until))
    trains = benchmark.options.data_dir is not None
    benchmark.run(until - OF_TRAINING * minutes * trains if until < math.inf else until)
    if trains:
        _train(benchmark, until)
    else:
        benchmark.leave_out(f"training of {CONFIG}", "there is no --data-dir with its arrays")


def _left(until):
    """Returns the seconds that are left, None for no end."""
    return None if until == math.inf else max(until - time.monotonic(), 0.0)


def _equality(benchmark, until):
    """Compares the losses of some updates with those of a CPU."""
    entries = benchmark.record["equality"] = []
    precisions = PRECISIONS.get(benchmark.platform, PRECISIONS_OF_OTHERS)
    worker, late = Worker(Equality, cpus=benchmark.cpus), False
    try:
        for precision in sorted(precisions):  # "highest" before "tensorfloat32"
            for name in NETWORKS:
                what = f"equality of {name}, {precision} products"
                if late or _left(until) == 0:
                    benchmark.leave_out(what, "there was no time left for it")
                    continue
                try:
                    entry = worker.ask("compare", name, precision, timeout=_left(until))
                except TimeoutError:
                    benchmark.leave_out(what, "it was not ready in time")
                    worker.process.kill()
                    late = True
                    continue
                except RuntimeError as error:
                    entry = {"network": name, "precision": precision, "reason": failure(error)}
                entries.append(entry)
                apart = entry.get("max_relative_difference")
                shown = entry.get("reason") or (
                    f"losses differ by {apart:.1e}" if apart is not None else "no earlier numbers"
                )
                benchmark.say(f"{what}: {shown}")
                benchmark.write()
    finally:
        worker.stop()


def _train(benchmark, until):
    """Trains some keys as one program from carried arrays, until a time at the latest."""
    with tempfile.TemporaryDirectory() as folder:
        task = Task(
            config=CONFIG,
            changes={},
            keys=KEYS,
            folder=pathlib.Path(folder),
            carried=benchmark.options.data_dir.absolute(),
        )
        every, begin = task.settings().evaluate_every, time.monotonic()
        entry = {"config": CONFIG, "keys": len(KEYS), "steps": task.settings().steps}
        entry |= {"examples": {}, "evaluations": [], "finished": False}
        benchmark.record["training"] = entry
        worker = Worker(Course, task, cpus=benchmark.cpus)
        try:
            entry["examples"] = worker.ask("about", timeout=_left(until))["examples"]
            for stop in stops(every, entry["steps"]):
                rows = worker.ask("advance", stop, timeout=_left(until))
                entry["seconds"] = round(time.monotonic() - begin, 1)
                entry["evaluations"] += [
                    row | {"seconds": entry["seconds"]} for row in rows if row["step"] == stop
                ]
                _say(benchmark, stop, entry)
                benchmark.write()
            entry["finished"] = True
        except (TimeoutError, RuntimeError) as error:
            late = isinstance(error, TimeoutError)
            entry["reason"] = "there was no time for more" if late else failure(error)
            worker.process.kill()
            benchmark.leave_out(f"the rest of the training of {CONFIG}", entry["reason"])
        finally:
            worker.stop()
    benchmark.write()


def _say(benchmark, step, entry):
    """Prints the accuracies of all keys at a step."""
    accuracies = [row["target_accuracy"] for row in entry["evaluations"] if row["step"] == step]
    shown = ", ".join(f"{each:.4f}" for each in accuracies)
    benchmark.say(f"{CONFIG}, step {step:,} after {entry['seconds']:.0f} s: {shown}")
