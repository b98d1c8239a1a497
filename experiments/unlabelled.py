"""What the predictions on a target without labels say, in place of accuracies."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.markup import escape
from rich.table import Table

from dann_jax import selection
from experiments import choice
from experiments.predictions import probabilities

__all__ = ["DASH", "chosen", "line", "measured", "table"]

DASH = "—"  # in a table, where there is no number
MOST = 20  # classes with a row of their own
_ROWS = {
    "source_accuracy": "source accuracy",
    "target_confidence": "confidence on the target",
    "target_entropy": "entropy on the target, nats",
}


def measured(logits: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """Returns the entries of an evaluation on test images of the target; none if any has a label.

    They are the mean probability of the predicted class, the mean entropy of the probabilities in
    nats, and how many images are predicted to be of each class.
    """
    if (labels >= 0).any():
        return {}
    counts = np.bincount(logits.argmax(-1), minlength=len(classes))
    return {
        "target_confidence": float(probabilities(logits).max(-1).mean()),
        "target_entropy": max(0.0, -selection.entropy(logits)),
        "predicted": dict(zip(classes, counts.tolist(), strict=True)),
    }


def line(said: dict[str, Any]) -> str:
    """Returns the entries of ``measured`` in words, for a line in the terminal."""
    counts = said["predicted"].values()
    return (
        f"target confidence {said['target_confidence']:.3f}  entropy "
        f"{said['target_entropy']:.3f}  {sum(map(bool, counts))} of {len(counts)} classes"
    )


def chosen(method: str, selected: dict[str, dict[str, Any]]) -> list[str]:
    """Returns a line on the steps that the rules choose for the keys; none if there are labels."""
    known = {
        rule: ", ".join(DASH if step is None else f"{step:,}" for step in each["step"])
        for rule, each in selected.items()
        if any(step is not None for step in each["step"])
    }
    if not known or choice.ORACLE in known:
        return []
    steps: dict[str, list[str]] = {}
    for rule, text in known.items():
        steps.setdefault(text, []).append(rule)
    chosen = "; ".join(f"{text} by {', '.join(rules)}" for text, rules in steps.items())
    return [f"{method}: the rules choose step {chosen}"]


def table(title: str, results: dict[str, dict[str, Any]]) -> Table | None:
    """Returns the results of an experiment, by method, with what there is at the last step.

    Numbers are means over the keys. None where the target has labels, or nothing is known of it.
    """
    ends = {method: _ends(result) for method, result in results.items()}
    if not any(ends.values()) or any(
        accuracy is not None for result in results.values() for accuracy in _accuracies(result)
    ):
        return None
    shown = Table(title=f"{title}: no target labels, last step", title_justify="left")
    shown.add_column("", no_wrap=True)
    for method in results:
        shown.add_column(method, justify="right", no_wrap=True)
    lost = {method: any(result["diverged"]) for method, result in results.items()}
    for name, text in _ROWS.items():
        means = {method: _mean([end[name] for end in of_keys]) for method, of_keys in ends.items()}
        shown.add_row(text, *("diverged" if lost[m] else mean for m, mean in means.items()))
    shown.add_row("keys", *(str(len(result["keys"])) for result in results.values()))
    minutes = (each["wall_seconds"] / 60 / len(each["keys"]) for each in results.values())
    shown.add_row("min/key", *(f"{each:.1f}" for each in minutes))
    _add_rules(shown, results, ends)
    _add_classes(shown, results, ends)
    return shown


def _accuracies(result):
    return [
        accuracy
        for curves in result.get("curves", ())
        for accuracy in curves["evaluations"]["target_accuracy"]
    ]


def _ends(result):
    """Returns the last evaluation of each key, of a target without labels; none if one diverged."""
    every = [curves["evaluations"] for curves in result.get("curves", ())]
    if any(result["diverged"]) or not all(columns.get("predicted") for columns in every):
        return []
    ends = []
    for columns in every:
        end = {name: values[-1] for name, values in columns.items() if isinstance(values, list)}
        for name in ("predicted", "scores"):
            end[name] = {n: values[-1] for n, values in columns.get(name, {}).items()}
        ends.append(end)
    return ends


def _mean(values):
    """Returns the mean over keys as text; a dash where a value is not known."""
    return DASH if not values or None in values else f"{np.mean(values):.4f}"


def _add_rules(shown, results, ends):
    """Adds what the rules say; the method that one prefers is in bold."""
    rules = dict.fromkeys(name for each in ends.values() for end in each for name in end["scores"])
    if rules:
        shown.add_section()
        shown.add_row("[italic]rules, larger is better[/italic]")
    for rule in rules:
        texts = [_mean([end["scores"].get(rule) for end in ends[m]]) for m in results]
        known = [float(text) for text in texts if text != DASH]
        best = [len(known) > 1 and text != DASH and float(text) == max(known) for text in texts]
        shown.add_row(
            rule, *(f"[bold]{t}[/bold]" if b else t for t, b in zip(texts, best, strict=True))
        )


def _add_classes(shown, results, ends):
    """Adds how many images are predicted to be of each class, the rarest ones together."""
    classes = next(list(each[0]["predicted"]) for each in ends.values() if each)
    counts = {  # [key, class]
        method: np.array([list(end["predicted"].values()) for end in each])
        for method, each in ends.items()
        if each
    }
    order = np.argsort(-np.mean([each.mean(0) for each in counts.values()], 0), kind="stable")
    named, others = sorted(order[:MOST].tolist()), order[MOST:].tolist()
    rows = {escape(classes[place]): [place] for place in named}
    rows |= {f"{len(others)} other classes": others} if others else {}
    shown.add_section()
    of = {m: f"{_short((each > 0).sum(1).mean())} of {len(classes)}" for m, each in counts.items()}
    shown.add_row("classes predicted", *(of.get(method, DASH) for method in results))
    shown.add_row("[italic]images predicted to be[/italic]")
    for name, places in rows.items():
        of = {m: _short(each[:, places].sum(1).mean()) for m, each in counts.items()}
        shown.add_row(name, *(of.get(method, DASH) for method in results))


def _short(number):
    return f"{number:.1f}".removesuffix(".0")
