"""The bars and lines of trainings, and the table of results, that experiments.run shows."""

import math
import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from experiments import record, train, unlabelled
from experiments.methods import METHODS, gap_of

__all__ = ["DASH", "Watch", "accuracy", "progress", "selected", "table"]

DASH = "—"  # in a table, where there is no number
_FIGURES = ("mean", "sd", "SVM", "keys", "gap", "steps", "min/key")


def progress(console: Console) -> Progress:
    """Returns where bars of trainings are shown, for ``Watch``."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TextColumn("{task.completed:,}/{task.total:,}"),
        TextColumn("{task.fields[losses]}"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )


class Watch:
    """Shows reports of trainings: a bar for each group of keys, a line for each evaluation."""

    def __init__(self, progress: Progress, console: Console, method: str, steps: int):
        """Takes where to show the bars and the lines, and what and how long the trainings are."""
        self.progress, self.console, self.method, self.steps = progress, console, method, steps
        self.group, self.task, self.since, self.pace = None, None, None, ""

    def __call__(self, report: train.Report) -> None:
        """Shows a report."""
        if report.group != self.group:
            self._start(report.group)
        m = report.metrics
        losses = f"L_y {m['label_loss']:.3f}"
        if not math.isnan(m["domain_loss"]):
            losses += f"  L_d {m['domain_loss']:.3f}  domain acc {m['domain_accuracy']:.2f}"
            losses += f"  lambda {m['lam']:.3f}"
        losses += f"  mu {report.mu:.5f}  |f| {m['feature_norm']:.1f}"
        pace = self._pace(report)
        self.progress.update(self.task, completed=report.step, losses=f"{pace}  {losses}")
        if report.target_accuracy is not None:
            target = f"target {accuracy(report.target_accuracy)}"
            if report.unlabelled:
                target = unlabelled.line(report.unlabelled)
            self.console.print(
                f"{self.method} key {report.key} step {report.step:,}: {target}  "
                f"source {accuracy(report.source_accuracy)}  {losses}  {pace}",
                soft_wrap=True,
            )
        for text in report.warnings:
            self.console.print(f"[yellow]warning: {text}[/yellow]", soft_wrap=True)
        if self.since is None or report.target_accuracy is not None:
            self.since = report.step, time.perf_counter()

    def _start(self, group):
        if self.task is not None:
            self.progress.remove_task(self.task)
        count = len(group.keys)
        keys = f"{count} keys" if count > 1 else f"key {group.keys[0]}"
        self.task = self.progress.add_task(f"{self.method} {keys}", total=self.steps, losses="")
        self.group, self.since, self.pace = group, None, ""

    def _pace(self, report):
        """Returns the steps a second since the last evaluation, or the first report."""
        if self.since is not None:
            step, then = self.since
            seconds = time.perf_counter() - then
            if report.step > step and seconds > 0.5:
                self.pace = f"{(report.step - step) / seconds:.1f} step/s"
        return self.pace


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
        f"{result['wall_seconds'] / 60 / len(result['keys']):.1f}",
    )
