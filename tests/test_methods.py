"""The methods of other papers in the experiments' own loop."""

import dataclasses

import jax
import pytest
from test_together import CONFIG, PAIR, small_config

from experiments import record, studies, train, trained
from experiments.methods import METHODS

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.mark.parametrize("name", ["ddc", "dan", "deep-coral", "cdan", "cdan-e", "entropy", "vada"])
def test_a_method_of_another_paper_trains_and_its_record_holds_its_penalties(name, tmp_path):
    config = dataclasses.replace(CONFIG, average_decay=0.5)
    with small_config():
        study = studies.prepare(config, METHODS[name], PAIR, jax.local_devices()[:1])
        (done,) = train.train(study, [0], tmp_path)
    curves = record.read_record(tmp_path, 0)["curves"]
    assert curves
    for entry in curves:
        assert entry.get("penalties", {}).keys() == set(METHODS[name].penalties)
        assert all(value is not None for value in entry.get("penalties", {}).values())
    assert done["finished"]
    state = trained.restored(study, 0, tmp_path)
    view = study.evaluated(state)
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), view.theta["f"], state.theta["f"])
    assert any(jax.tree.leaves(moved))  # the average is what is evaluated
