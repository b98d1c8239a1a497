"""The programs of docs/encoders.md: a stranger's encoder of each kind, in under 30 lines."""

import functools
import pathlib
import re

import jax
import pytest

from dann_jax import (
    DannModel,
    evaluate,
    init_state,
    label_objective,
    make_optimizer,
    make_update_step,
    predict,
)
from dann_jax.networks import FullyConnected

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "encoders.md"
DATA, *PROGRAMS = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
KINDS = ("linen", "nnx", "plain function")


@functools.cache
def results(number):
    """What the page's program has computed, run after the page's data."""
    names = {"__name__": "page"}
    for code in (DATA, PROGRAMS[number]):
        exec(compile(code, str(PAGE), "exec"), names)
    return names


def test_the_page_has_a_program_for_each_kind_of_encoder():
    assert len(PROGRAMS) == len(KINDS)
    for mark, program in zip(("nn.Module", "nnx.Module", "Apply("), PROGRAMS, strict=True):
        assert mark in program


@pytest.mark.parametrize("program", PROGRAMS, ids=KINDS)
def test_each_program_is_shorter_than_30_lines(program):
    lines = [line for line in program.splitlines() if line.strip()]
    assert len(lines) < 30
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize("number", range(len(KINDS)), ids=KINDS)
def test_each_encoder_adapts(number):
    names = results(number)
    assert names["accuracy"] > 0.9
    assert float(names["metrics"].label_loss) < 0.3


def test_without_adaptation_the_same_net_fails_on_the_target():
    names = results(0)
    model = DannModel(
        feature_extractor=names["Encoder"](),
        label_predictor=FullyConnected((), 2),
        domain_classifier=FullyConnected((16,), 1),
    )
    optimizer = make_optimizer(0.05)
    update = jax.jit(
        make_update_step(model, optimizer, lambda step: 0.0, objective=label_objective)
    )
    state = init_state(model, optimizer, jax.random.key(0), names["source_x"])
    for _ in range(600):
        state, metrics = update(state, names["batch"], jax.random.key(0))
    assert float(metrics.label_loss) < 0.1
    source, target = (
        evaluate(predict(model, state, names[f"{d}_x"]), names[f"{d}_y"])
        for d in ("source", "target")
    )
    assert source > 0.97
    assert target < 0.8
    assert names["accuracy"] > target + 0.12
