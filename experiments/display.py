"""The bars and lines of trainings, and the table of results, that experiments.run shows."""

import math
import time
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from dann_jax.programs import Group
from dann_jax.training import Metrics
from experiments import record, train, unlabelled
from experiments.methods import METHODS, gap_of
from experiments.unlabelled import DASH

__all__ = ["Watch", "accuracy", "selected", "show", "table"]

COMPILING = "compiling…"
EVERY = 30.0  # seconds between two lines where there is no terminal
BAR, SHORTEST = 20, 5  # characters of a bar
WIDEST = 10_000  # characters of a table
OTHERS = {*Metrics._fields, "mu"}  # than penalties, by name
_FIGURES = ("mean", "sd", "SVM", "keys", "gap", "steps", "min/key")


class Watch:
    """Shows trainings: a bar for the group of keys under way, and a line for each evaluation.

    Where there is no terminal, a line each half minute takes the place of the bar.
    """

    def __init__(self, console: Console, method: str, steps: int):
        """Takes where to show it, and what and how long the trainings are."""
        self.console, self.method, self.steps = console, method, steps
        self.group, self.step, self.since, self.rate = None, 0, None, 0.0
        self.metrics: dict[str, float] = {}
        self.target = None  # its last accuracy
        self.told = -math.inf  # when the last line was printed
        self.live = None
        if console.is_interactive:
            how = {"refresh_per_second": 4, "transient": True}
            self.live = Live(console=console, get_renderable=self._bar, **how)

    def __enter__(self):
        """Starts the bar."""
        if self.live is not None:
            self.live.start()
        return self

    def __exit__(self, *_):
        """Removes it."""
        self.group = None
        if self.live is not None:
            self.live.stop()

    def advance(self, group: Group, step: int) -> None:
        """Hears of the step of a group: before its first update, and when a call has ended."""
        now = time.perf_counter()
        if group != self.group:
            first = self.group is None
            self.group, self.step, self.since, self.rate = group, step, None, 0.0
            self.metrics, self.target = {}, None
            if first and self.live is None:
                self._print(f"{self._names()[0]}: {COMPILING}")
            return
        if self.since is None:  # compiled
            self.since = step, now
        elif now > self.since[1] + 0.5:
            self.rate = (step - self.since[0]) / (now - self.since[1])
        self.step = step
        if self.live is None and now >= self.told + EVERY:
            start = f"{self._names()[0]}: {self._count()}"
            self._print("  ".join([start, f"{self._left()} left", *self._numbers()]))

    def __call__(self, report: train.Report) -> None:
        """Shows a report."""
        self.metrics = report.metrics | {"mu": report.mu}
        if report.target_accuracy is not None:
            self.target = report.target_accuracy
            self._print(self._evaluation(report))
            self.since = report.step, time.perf_counter()  # an evaluation is no step
        for text in report.warnings:
            self._print(f"[yellow]warning: {text}[/yellow]")

    def _print(self, text):
        self.told = time.perf_counter()
        self.console.print(text, soft_wrap=True)

    def _evaluation(self, report):
        """Returns the line of an evaluation, on a terminal as much as one line holds."""
        target = f"target {accuracy(report.target_accuracy)}"
        if report.unlabelled:
            target = unlabelled.line(report.unlabelled)
        start = f"{self.method} key {report.key} step {report.step:,}: {target}"
        source = f"source {accuracy(report.source_accuracy)}"
        room = math.inf if self.live is None else self.console.width - len(start)
        numbers = [text for name, text in self._named() if name != "target"]
        return "  ".join([start, *_fitting([source, *numbers], room - 2, least=0)])

    def _bar(self):
        """Returns the bar as a line of the terminal's width."""
        if self.group is None:
            return Text()
        width, count, left = self.console.width - 1, self._count(), self._left()
        numbers = self._numbers() or [COMPILING if self.since is None else ""]
        least = sum(map(len, numbers[:2])) + 2 * (len(numbers) > 1)
        room = width - len(count) - len(left) - 4 - least  # of name and bar
        fits = [name for name in self._names() if len(name) <= room - SHORTEST]
        name = Text(fits[0] if fits else self._names()[-1])
        name.truncate(max(1, room - SHORTEST), overflow="ellipsis")
        beyond = room - len(name) - BAR
        shown = "  ".join(_fitting(numbers, least + max(0, beyond), least=2))
        bar = min(BAR, room - len(name)) if beyond > 0 else room - len(name)
        line = Table.grid(padding=(0, 1, 0, 0))
        cells = name, ProgressBar(self.steps, self.step, width=max(1, bar)), count, left, shown
        for _ in cells:
            line.add_column(no_wrap=True)
        line.add_row(*cells)
        return line

    def _names(self):
        """Returns what is trained, the longer form first."""
        count = len(self.group.keys)
        keys = f"{count} keys" if count > 1 else f"key {self.group.keys[0]}"
        return f"{self.method} {keys}", keys

    def _count(self):
        return f"{f'{self.step:,}':>{len(f'{self.steps:,}')}}/{self.steps:,}"

    def _left(self):
        """Returns the time that is left, hours, minutes and seconds."""
        if not self.rate:
            return "-:--:--"
        minutes, seconds = divmod(round((self.steps - self.step) / self.rate), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}:{minutes:02}:{seconds:02}"

    def _numbers(self):
        """Returns the last metrics as texts, the most telling first."""
        return [text for _, text in self._named()]

    def _named(self):
        """Returns texts by what they are of."""
        m = self.metrics
        if not m:
            return []
        known = {name: value for name, value in m.items() if not math.isnan(value)}
        domains = "domain_loss" in known
        penalties = {name: value for name, value in known.items() if name not in OTHERS}
        named = {"label_loss": f"L_y {m['label_loss']:.3f}"}
        if self.target is not None and not math.isnan(self.target):
            named["target"] = f"target {self.target:.3f}"
        if domains:
            named["domain_accuracy"] = f"domain acc {m['domain_accuracy']:.2f}"
        if "label_accuracy" in known:
            named["label_accuracy"] = f"acc {m['label_accuracy']:.2f}"
        if self.rate:
            named["rate"] = f"{self.rate:.1f} step/s"
        if domains:
            named["domain_loss"] = f"L_d {m['domain_loss']:.3f}"
            named["lam"] = f"lambda {m['lam']:.3f}"
        named |= {name: f"{name} {value:.3f}" for name, value in penalties.items()}
        named |= {"mu": f"mu {m['mu']:.5f}", "feature_norm": f"|f| {m['feature_norm']:.1f}"}
        return list(named.items())


def _fitting(texts, room, least):
    """Returns the first texts: those that fit two apart, and ``least`` of them at any rate."""
    count, length = 0, -2
    for text in texts:
        length += 2 + len(text)
        if length > room and count >= least:
            break
        count += 1
    return texts[:count]


def accuracy(value: float | None) -> str:
    """Returns an accuracy as text; a dash where it is not known."""
    return DASH if value is None or math.isnan(value) else f"{value:.4f}"


def selected(method: str, chosen: dict[str, dict[str, Any]]) -> list[str]:
    """Returns a line on the steps that each rule, and the oracle, chooses for the keys."""
    lines = []
    for name, each in chosen.items():
        steps = ", ".join(DASH if step is None else f"{step:,}" for step in each["step"])
        lines.append(f"{method}: {name} chooses step {steps}: target {accuracy(each['mean'])}")
    return lines


def show(table: Table, console: Console) -> None:
    """Prints a table whole; in a terminal without the last columns, where it has no room for them.

    What is left out is named below it.
    """

    def needed():
        return console.measure(table, options=console.options.update(width=WIDEST)).maximum

    left_out: list[str] = []
    while console.is_terminal and needed() > console.width and len(table.columns) > 2:
        left_out.insert(0, str(table.columns.pop().header))
    width = console.width
    if not console.is_terminal:
        console.width = max(width, needed())
    console.print(table)
    console.width = width
    if left_out:
        console.print(f"no room for: {', '.join(left_out)}", markup=False)


def table(title: str, experiments: dict[str, dict[str, dict[str, Any]]]) -> Table:
    """Returns the results of experiments, by their names and methods, as a table."""
    shown = Table(title=f"{title}: accuracy on the target's test images, last step")
    names = ("config",) * (len(experiments) > 1)
    for column in (*names, "method", *_FIGURES):
        left = column in ("config", "method")
        shown.add_column(column, justify="left" if left else "right", no_wrap=left)
    for name, results in experiments.items():
        shown.add_section()
        means = {method: result["mean"] for method, result in results.items()}
        for method, result in results.items():
            first = (name,) * len(names)
            shown.add_row(*first, method, *_figures(result, means))
            if METHODS[method].aligns and record.has_picks(result):
                shown.add_row(*first, f"{method}, oracle", *_figures(record.oracle(result), means))
    return shown


def _figures(result, means):
    method = result["method"]
    gap = gap_of(METHODS[method], means | {method: result["mean"]})
    lost = any(result.get("diverged") or ())
    return (
        "diverged" if lost else accuracy(result["mean"]),
        accuracy(result["std"]),
        accuracy(result.get("svm_mean")),
        str(len(result["keys"])),
        DASH if gap is None else f"{gap:.1%}",
        f"{result['steps']:,}",
        DASH
        if result.get("continued")
        else f"{result['wall_seconds'] / 60 / len(result['keys']):.1f}",
    )
