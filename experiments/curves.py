"""Pictures of how trainings went."""

import pathlib
from typing import Any

from experiments import results

__all__ = ["draw"]

COLOURS = {
    "source-only": "#4477aa",
    "dann": "#cc3311",
    "train-on-target": "#228833",
    "few-labels": "#ccbb44",
    "source-and-few-labels": "#66ccee",
    "dann-and-few-labels": "#aa3377",
}


def draw(found: dict[str, dict[str, Any]], chance: float, path: pathlib.Path) -> None:
    """Draws the curves of the methods of one experiment as a PNG.

    Thin lines are single keys, thick ones their mean.

    Args:
      found: Result of each method, see ``experiments.run``.
      chance: L_d of a classifier that cannot tell the domains apart, nats.
      path: Where to.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np

    figure, axes = plt.subplots(1, 4, figsize=(16, 3.8), constrained_layout=True)
    panels = (
        ("target_accuracy", "target accuracy (test images)"),
        ("label_loss", "$L_y$, nats"),
        ("domain_loss", "$L_d$, nats"),
        (None, r"schedules of DANN"),
    )
    for axis, (name, title) in zip(axes, panels, strict=True):
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("step")
        axis.spines[["top", "right"]].set_visible(False)
        for method, result in found.items():
            if name is None:
                continue
            entries = [
                curve["evaluations" if "accuracy" in name else "training"]
                for curve in result["curves"]
            ]
            if entries[0][name][0] is None:
                continue  # no domain branch
            steps = entries[0]["step"]
            lines = np.array([entry[name] for entry in entries], float)
            for line in lines if len(lines) > 1 else ():
                axis.plot(steps, line, color=COLOURS[method], lw=0.6, alpha=0.4)
            axis.plot(steps, lines.mean(0), color=COLOURS[method], lw=1.6, label=method)
        if name == "label_loss":
            axis.set_yscale("log")
        if name == "domain_loss":
            axis.axhline(chance, color="0.5", ls=":", lw=1)
            beside = axis.get_yaxis_transform()  # x as a share of the width
            axis.text(0, chance, " chance", fontsize=8, va="bottom", color="0.4", transform=beside)
    if "dann" in found:
        training = found["dann"]["curves"][0]["training"]
        axes[3].plot(training["step"], training["lam"], color="#aa3377", label=r"$\lambda_p$")
        mu0 = found["dann"]["resolved_config"]["mu0"]
        relative = np.array(training["mu"]) / mu0
        axes[3].plot(
            training["step"],
            relative,
            color="#666666",
            label=rf"$\mu_p / \mu_0$, $\mu_0$ = {mu0:g}",
        )
        axes[3].plot(
            training["step"],
            np.mean([c["training"]["domain_accuracy"] for c in found["dann"]["curves"]], 0),
            color=COLOURS["dann"],
            lw=0.8,
            label="domain accuracy",
        )
        axes[3].set_ylim(0, 1.02)
        axes[3].legend(fontsize=8, frameon=False)
    axes[0].set_ylim(0, 1)
    if axes[0].lines:  # a target without labels has no accuracy
        axes[0].legend(fontsize=8, frameon=False)
    with results.whole(path) as temporary:
        figure.savefig(temporary, dpi=110)
    plt.close(figure)
