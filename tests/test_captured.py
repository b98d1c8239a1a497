"""Compiled programs are kept for as long as what their functions depend on is the same."""

import dataclasses
import functools
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from dann_jax import DannModel, captured, fit, mnist, predict, reversed_objective
from dann_jax.captured import remembered
from dann_jax.networks import FullyConnected
from dann_jax.preprocessing import Preprocess
from experiments import runtime

SCALE, WEIGHTS = 2.0, np.ones(2)


def scaled(x):
    return (lambda y: SCALE * y)(x) * WEIGHTS.sum()


class Scaler:
    def __init__(self, scale):
        self.scale = np.asarray(scale)

    def transform(self, x):
        return x * self.scale


def closing_over(value):
    return lambda x: x * value


class Settings:
    scale = 1

    def scaled(self, x):
        return self.twice(x) * self.scale

    @staticmethod
    def twice(x):
        return x * SCALE


def by_class(x):
    return x * Settings.scale


def model(units=3):
    return DannModel(
        feature_extractor=FullyConnected((), units),
        label_predictor=FullyConnected((), 2),
        domain_classifier=FullyConnected((), 1),
    )


class Own(nn.Module):
    table: object

    def __call__(self, x):
        return x @ self.table


@dataclasses.dataclass(frozen=True)
class Named:
    name: str

    def __call__(self, x):
        return x * {"a": 1, "b": 2}[self.name] * SCALE


class Slots:
    __slots__ = ("scale",)

    def __init__(self, scale):
        self.scale = scale

    def scaled(self, x):
        return x * self.scale


class Decorated:
    def __init__(self, function, scale):
        functools.update_wrapper(self, function)
        self.scale = scale

    def __call__(self, x):
        return self.scale * self.__wrapped__(x)


class ScaledDense(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(x) * SCALE


class Scales(list):
    pass


def with_attribute(x):
    return x * with_attribute.scale


def reversed_by(scale):
    @jax.custom_vjp
    def identity(x):
        return x

    identity.defvjp(lambda x: (x, None), lambda _, g: (-scale * g,))
    return identity


OUTER = types.ModuleType("outer")
OUTER.inner = types.ModuleType("outer.inner")
LINEAR = nnx.Linear(2, 2, rngs=nnx.Rngs(0))
OBJECTS = np.array([1.0, None])
MASKED = np.ma.array([1.0, 2.0], mask=[0, 1])
SLOTS, NUMBERS, SET = Slots(1.0), Scales([1]), {1, 2}
CHANGED = [  # what takes part, and what changes it
    (Named("a"), lambda: globals().update(SCALE=3.0)),
    (ScaledDense(), lambda: globals().update(SCALE=4.0)),
    (SLOTS.scaled, lambda: setattr(SLOTS, "scale", 2.0)),
    (with_attribute, lambda: setattr(with_attribute, "scale", 2.0)),
    (lambda x: x * (3 in SET), lambda: SET.add(3)),
    (lambda x: x * OUTER.inner.scale, lambda: setattr(OUTER.inner, "scale", 2.0)),
    (lambda x: x * OBJECTS[0], lambda: OBJECTS.__setitem__(0, 5.0)),
    (lambda x: x * MASKED, lambda: MASKED.__setitem__(0, np.ma.masked)),
    (lambda x: x * NUMBERS.scale, lambda: setattr(NUMBERS, "scale", 2.0)),
    (lambda x: LINEAR(x), lambda: LINEAR.kernel.set_value(LINEAR.kernel.get_value() * 2)),
]


@pytest.mark.parametrize(("function", "change"), CHANGED)
def test_what_a_function_reaches_counts(function, change, monkeypatch):
    monkeypatch.setitem(globals(), "SCALE", 2.0)  # as it was, afterwards
    captured.captured(function)
    before = captured.captured(function)
    assert before == captured.captured(function)
    change()
    assert captured.captured(function) != before


SAME = [  # two of a kind that do the same, made anew
    lambda: closing_over(2.0),
    lambda: closing_over(np.arange(3)),
    lambda: Scaler(3).transform,
    lambda: functools.partial(reversed_objective, domain_weight=0.3),
    lambda: Preprocess((1.0,), (2.0,), 255.0, 28).target,
    lambda: nn.relu,
    lambda: Own(np.eye(2)),
    model,
    mnist,
]
OTHER = [
    (closing_over(2.0), closing_over(3.0)),
    (closing_over(2), closing_over(2.0)),
    (closing_over(np.arange(3)), closing_over(np.arange(3.0))),
    (closing_over({"a": [1]}), closing_over({"a": [2]})),
    (closing_over(closing_over(1)), closing_over(closing_over(2))),
    (Scaler(3).transform, Scaler(4).transform),
    (functools.partial(scaled, 1), functools.partial(scaled, 2)),
    (reversed_objective, functools.partial(reversed_objective, domain_weight=0.3)),
    (Preprocess((1.0,), (2.0,), 255.0, 28).target, Preprocess((1.0,), (2.0,), 1.0, 28).target),
    (Preprocess((1.0,), (2.0,), 255.0, 28).target, Preprocess((1.0,), (2.0,), 255.0, 28).source),
    (nn.relu, nn.tanh),
    (Own(np.eye(2)), Own(np.ones((2, 2)))),
    (model(3), model(4)),
    (optax.adam(1e-3), optax.adam(1e-2)),
    (Named("a"), Named("b")),
    (Decorated(abs, 1.0), Decorated(abs, 2.0)),
    (reversed_by(1.0), reversed_by(2.0)),
    (optax.adam(lambda step: SCALE), optax.adam(lambda step: 3.0)),
    (closing_over(jnp.ones(2)), closing_over(jnp.ones(2))),  # by identity
]


@pytest.mark.parametrize("make", SAME)
def test_what_does_the_same_has_one_key(make):
    assert captured.captured(make()) == captured.captured(make())
    assert hash(captured.captured(make())) == hash(captured.captured(make()))


@pytest.mark.parametrize(("one", "other"), OTHER)
def test_what_does_something_else_has_another(one, other):
    assert captured.captured(one) != captured.captured(other)
    assert captured.captured((one, other)) != captured.captured((other, one))


def test_globals_count_by_their_values_and_those_of_modules_that_are_named(monkeypatch):
    settings = types.ModuleType("settings")
    settings.scale = 1
    monkeypatch.setitem(globals(), "settings", settings)
    functions = scaled, jax.jit(scaled), lambda x: settings.scale * x
    keys = [list(map(captured.captured, functions))]
    keys.append(list(map(captured.captured, functions)))
    assert keys[0] == keys[1]
    WEIGHTS[0] = 5  # in place
    settings.scale = 2
    keys.append(list(map(captured.captured, functions)))
    WEIGHTS[0] = 1
    assert not [i for i in range(3) if keys[2][i] == keys[0][i]]
    monkeypatch.setitem(globals(), "SCALE", 7.0)
    assert captured.captured(scaled) != keys[0][0]


def test_attributes_of_classes_count(monkeypatch):
    functions = by_class, Settings().scaled
    before = list(map(captured.captured, functions))
    assert before == list(map(captured.captured, functions))
    monkeypatch.setattr(Settings, "scale", 2)
    between = list(map(captured.captured, functions))
    monkeypatch.setitem(globals(), "SCALE", 7.0)  # of a method that the method calls
    assert not set(before) & set(between)
    assert captured.captured(functions[1]) != between[1]


def test_names_of_attributes_are_no_globals_and_copied_modules_no_libraries(monkeypatch):
    @functools.wraps(jnp.tanh)
    def wrapped(x):
        return x * SCALE

    functions = wrapped, lambda a: a.std()
    before = list(map(captured.captured, functions))
    monkeypatch.setitem(globals(), "SCALE", 7.0)
    monkeypatch.setitem(globals(), "std", 1.0)
    assert captured.captured(wrapped) != before[0]
    assert captured.captured(functions[1]) == before[1]


def test_cycles_and_what_is_too_much_have_keys(monkeypatch):
    cycle = Scaler(1)
    cycle.itself = cycle
    assert captured.captured(cycle.transform) == captured.captured(cycle.transform)
    monkeypatch.setattr(captured, "MOST", 3)
    one, other = closing_over([[1], [2]]), closing_over([[1], [2]])
    assert captured.captured(one) == captured.captured(one)
    assert captured.captured(one) != captured.captured(other)  # by identity


def test_a_result_is_remembered_until_something_changes():
    calls = []

    @remembered(2)
    def result(function, number):
        calls.append(number)
        return function(number)

    assert [result(closing_over(2), 3), result(closing_over(2), 3)] == [6, 6]
    assert result(closing_over(3), 3) == 9
    assert calls == [3, 3]


def test_programs_of_fit_and_predict_see_what_has_changed(quick_compilation):
    draw = np.random.default_rng(0)
    x, y, target = draw.normal(size=(20, 3)), draw.integers(2, size=20), draw.normal(size=(20, 3))
    scaler, weights = Scaler(1.0), {"lam": 0.1}
    net, optimizer = model(), optax.sgd(0.1)

    def trained():
        given = {"optimizer": optimizer, "lam": lambda step: weights["lam"] + 0 * step}
        options = {"steps": 2, "key": jax.random.key(0), "batch": (8, 8), **given}
        state = fit(net, (x, y), target, preprocess=scaler.transform, **options).state
        return predict(net, state, x, preprocess=scaler.transform)

    first = trained()
    with runtime.counted() as compiled:
        np.testing.assert_array_equal(trained(), first)
    assert compiled.programs == 0
    scaler.scale = np.asarray(0.5)
    second = trained()
    assert np.abs(second - first).max() > 1e-3
    weights["lam"] = 5.0
    assert np.abs(trained() - second).max() > 1e-5
