"""The methods of other papers in the experiments' own loop."""

import dataclasses
import io

import jax
import pytest
from rich.console import Console
from test_together import CONFIG, PAIR, small_config

from experiments import display, record, studies, train, trained
from experiments.methods import METHODS

pytestmark = pytest.mark.usefixtures("quick_compilation")


NAMES = ("ddc", "dan", "deep-coral", "cdan", "cdan-e", "entropy", "vada", "mean-teacher")


@pytest.mark.parametrize("name", NAMES)
def test_a_method_of_another_paper_trains_and_its_record_holds_its_penalties(
    name, tmp_path, monkeypatch
):
    monkeypatch.setattr(display, "EVERY", 0.0)
    config = dataclasses.replace(CONFIG, average_decay=0.5)
    console = Console(file=io.StringIO(), width=200)
    with small_config(), display.Watch(console, name, config.steps) as watch:
        study = studies.prepare(config, METHODS[name], PAIR, jax.local_devices()[:1])
        options = {"report": watch, "advance": watch.advance}
        (done,) = train.train(study, [0], tmp_path, checkpoint_every=2, **options)
    curves = record.read_record(tmp_path, 0)["curves"]
    assert curves
    for entry in curves:
        assert entry.get("penalties", {}).keys() == set(METHODS[name].penalties)
        assert all(value is not None for value in entry.get("penalties", {}).values())
    assert done["finished"]
    *_, line = [text for text in console.file.getvalue().splitlines() if " left" in text]
    for penalty in METHODS[name].penalties:
        assert f"  {penalty} " in line
    state = trained.restored(study, 0, tmp_path)
    view = study.evaluated(state)
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), view.theta["f"], state.theta["f"])
    assert any(jax.tree.leaves(moved))  # the average is what is evaluated


class CutOff(Exception):
    pass


def test_a_training_with_all_of_the_recipe_that_was_cut_off_goes_on_with_the_same_bits(tmp_path):
    config = dataclasses.replace(
        CONFIG,
        optimizer="adam",
        adam_b1=0.5,
        mu0=1e-2,
        alpha=0.0,
        drop_at=0.7,
        normalize_images=True,
        augment="strong",
        average_decay=0.5,
        confidence=0.3,
    )

    def cut(told):
        if told.step > 4:
            raise CutOff

    with small_config():
        study = studies.prepare(config, METHODS["mean-teacher"], PAIR, jax.local_devices()[:1])
        options = {"checkpoint_every": 2}
        (whole,) = train.train(study, [0], tmp_path / "whole", **options)
        with pytest.raises(CutOff):
            train.train(study, [0], tmp_path / "cut", **options, report=cut)
        told = []
        (resumed,) = train.train(study, [0], tmp_path / "cut", **options, report=told.append)
    assert min(report.step for report in told) > 4, "from the checkpoint"
    assert resumed["digests"] == whole["digests"]
    assert resumed["curves"] == whole["curves"]
    mu = [entry["mu"] for entry in whole["curves"]]
    assert mu == pytest.approx([1e-2, 1e-2, 1e-3])  # after 2, 4 and 6 of 6 updates
