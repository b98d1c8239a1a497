"""``fit``: arrays of any shape in, states and histories out, by the programs of the experiments."""

import functools
import logging
import pathlib
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.sparse
from flax import nnx

from dann_jax import (
    DannModel,
    Diverged,
    DomainArrays,
    batches,
    evaluate,
    features,
    fit,
    fitting,
    init_state,
    label_objective,
    lambda_p,
    make_optimizer,
    make_train_steps,
    make_update_step,
    mnist,
    mu_p,
    nnx_part,
    predict,
    programs,
    progress,
    selection,
)
from dann_jax.networks import FullyConnected
from dann_jax.objective import Terms
from dann_jax.preprocessing import Preprocess
from experiments import runtime

pytestmark = pytest.mark.usefixtures("quick_compilation")

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "arrays.md"
PROGRAMS = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
DRAW = np.random.default_rng(0)
Y = DRAW.integers(2, size=40)
X = (2.0 * Y - 1)[:, None] + 0.3 * DRAW.normal(size=(40, 3))
T = X[20:] + np.array([0, 0.5, 0])
KEY, ONE = jax.random.key(0), jax.local_devices()[:1]


def model(encoder=None, classes=2):
    return DannModel(
        feature_extractor=FullyConnected((), 4) if encoder is None else encoder,
        label_predictor=FullyConnected((), classes),
        domain_classifier=FullyConnected((), 1),
    )


MODEL = model()
fitted = functools.partial(fit, batch=(8, 4), devices=ONE)


SAME = {"optimizer": make_optimizer(0.01), "lam": 0.5}  # few compilations


def small(x=X[:20], y=Y[:20], target=T, *, net=MODEL, steps=4, **options):
    options = SAME | options
    options = {"key": KEY} | options if "keys" not in options else options
    return fitted(net, (x, y), target, steps=steps, **options)


def equal(one, other, rtol=0.0):
    compare = functools.partial(np.testing.assert_allclose, rtol=rtol, atol=rtol)
    jax.tree.map(compare, jax.device_get(one), jax.device_get(other))


# --- the same programs -------------------------------------------------------------------


def test_it_is_the_program_of_the_experiments_bit_for_bit():
    start, train_key = batches.split_key(KEY)
    optimizer = make_optimizer(lambda step: mu_p(progress(step, 4)))
    make_update = functools.partial(
        make_update_step, MODEL, optimizer, lambda step: lambda_p(progress(step, 4))
    )
    sizes = {"examples": (20, 20), "batch": (8, 4), "devices": ONE}
    train = make_train_steps(make_update, preprocess=lambda batch: batch, **sizes)
    state = jax.jit(lambda: init_state(MODEL, optimizer, start, X[:2]))()
    arrays = programs.replicate(DomainArrays(X[:20], Y[:20], T), ONE)
    state, metrics = train(programs.replicate(state, ONE), arrays, train_key, 4)
    got = small(optimizer=None, lam=None)
    equal(got.state.theta, state.theta)
    equal(got.history["label_loss"], metrics.label_loss)
    assert got.history["step"].tolist() == [1, 2, 3, 4]
    assert set(got.history) == {"step", *metrics._fields} - {"penalties"}
    assert (got.step, got.diverged, int(got.state.step)) == (4, None, 4)


def test_several_keys_train_as_each_alone():
    keys = jax.random.split(KEY, 2)
    both = small(keys=keys, evaluate=(T, Y[20:]))
    assert both.history["label_loss"].shape == (2, 4)
    assert both.evaluations["target_accuracy"].shape == (2, 4)
    for i in range(2):
        alone, of = small(key=keys[i], evaluate=(T, Y[20:])), both.of(i)
        equal(of.state.theta, alone.state.theta, rtol=1e-5)
        equal(of.evaluations, alone.evaluations)
        assert (of.step, of.diverged, of.symptoms) == (4, None, alone.symptoms)
    with pytest.raises(ValueError, match="a single key"):
        alone.of(0)


def test_devices_share_the_batch(devices):
    equal(small(devices=None).state.theta, small().state.theta, rtol=1e-5)
    assert fitting._devices(None, 1, (6, 2)) == tuple(devices[:2])
    assert fitting._devices(None, 3, (8, 4)) == tuple(devices[:3])


def test_a_training_goes_on_from_a_state():
    half = small(steps=2)
    whole, rest = small(), small(steps=2, state=half.state)
    equal(rest.state, whole.state)
    assert rest.history["step"].tolist() == [3, 4]
    assert int(half.state.step) == 2  # not donated
    with pytest.raises(TypeError, match="state must be that of init_state"):
        small(state=half)


# --- what goes in ------------------------------------------------------------------------


class Windows(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.relu(nn.Conv(4, (3,))(x)).mean(1)


class Tokens(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Embed(5, 4)(x).mean(1)


class Two(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(4)(jnp.concatenate([x["a"], x["b"]], -1))


class Dropping(nnx.Module):
    def __init__(self, rngs):
        self.dense, self.norm = nnx.Linear(3, 4, rngs=rngs), nnx.BatchNorm(4, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.drop(self.norm(self.dense(x)))


@pytest.mark.parametrize(
    ("encoder", "x"),
    [
        (Windows(), DRAW.normal(size=(40, 6, 2))),
        (Tokens(), DRAW.integers(5, size=(40, 6))),
        (Two(), {"a": X, "b": jnp.asarray(X[:, :1])}),
        (nnx_part(Dropping), X),
    ],
    ids=["windows", "tokens", "several inputs", "NNX with state"],
)
def test_examples_of_any_shape_train_and_predict(encoder, x):
    source, target = (jax.tree.map(lambda a, i=i: a[i : i + 20], x) for i in (0, 20))
    net = model(encoder)
    got = fitted(
        net,
        (source, Y[:20]),
        target,
        steps=2,
        keys=jax.random.split(KEY, 2),
        evaluate=(target, Y[20:]),
    )
    logits = predict(net, got.of(1).state, target)
    assert logits.shape == (20, 2)
    assert evaluate(logits, Y[20:]) == got.evaluations["target_accuracy"][1, -1]


@pytest.mark.parametrize(
    "own", [lambda x: x[..., 0, 0, :] / 255, Preprocess((0.5,) * 3, (2.0,) * 3, 9.0, 1)]
)
def test_stored_images_go_through_preprocess(own):
    images = DRAW.integers(256, size=(40, 1, 1, 3)).astype(np.uint8)
    encoder, views = FullyConnected((), 4), (own, own)
    if isinstance(own, Preprocess):
        views = own.source, own.target

        class Flat(nn.Module):
            @nn.compact
            def __call__(self, x):
                return nn.Dense(4)(x.reshape(len(x), -1))

        encoder = Flat()
    net, sets = model(encoder), {"source": (images, Y), "target": (images, Y)}
    got = fitted(
        net, (images[:20], Y[:20]), images[20:], steps=2, key=KEY, preprocess=own, evaluate=sets
    )
    for (name, column), view, domain in zip(
        list(got.evaluations.items())[1:], views, (0, 1), strict=True
    ):
        logits = predict(net, got.state, images, preprocess=view, domain=domain)
        assert (name, column[-1]) == (
            f"{('source', 'target')[domain]}_accuracy",
            evaluate(logits, Y),
        )


def test_an_optimizer_an_objective_and_lambda_of_ones_own():
    options = {"optimizer": optax.adam(1e-2), "objective": label_objective, "lam": lambda step: 2.0}
    got = small(every=3, evaluate=(T, Y[20:]), **options)
    assert "domain_loss" not in got.history
    assert got.history["lam"].tolist() == [2] * 4
    assert got.evaluations["step"].tolist() == [3, 4]


def test_labels_of_an_objective_of_ones_own_are_any_numbers():
    def squares(theta, batch, lam, apply, *, axis_name=None):
        f = apply.feature_extractor(theta["f"], batch.source_image)
        z = apply.label_predictor(theta["y"], f)
        loss = jnp.mean((z - batch.source_label) ** 2)
        return loss, Terms(loss, None, f, z, batch.source_label, None, None, None)

    got = small(y=X[:20, :2], objective=squares, steps=1)
    assert set(got.history) == {"step", "label_loss", "feature_norm", "lam"}
    with pytest.raises(ValueError, match=r"source labels\[0, 1\] is nan"):
        small(y=NAN, objective=squares)


# --- what is seen ------------------------------------------------------------------------


def test_reports_come_when_asked_for(capsys):
    reports = []
    got = small(steps=205, every=150, report=reports.append, evaluate=(T, Y[20:]))
    assert [each.step for each in reports] == [75, 150, 205]
    assert ["target_accuracy" in each.evaluation for each in reports] == [False, True, True]
    assert reports[-1].metrics["lam"] == pytest.approx(got.history["lam"][-100:].mean())
    assert f"{reports[1]}".startswith("step 150/205  label_loss 0.")
    assert capsys.readouterr() == ("", "")
    small(report=True)


def test_symptoms_are_logged_and_kept(caplog):
    with caplog.at_level(logging.WARNING):
        got = small(y=DRAW.integers(2, size=20), lam=1.0, optimizer=optax.sgd(0.0), every=2)
    assert [step for step, _ in got.symptoms] == [2, 4]
    assert "the features say nothing about the labels" in got.symptoms[0][1]
    assert caplog.messages[0] == f"step 2: {got.symptoms[0][1]}"


def test_a_rule_without_numbers_keeps_the_last_state(caplog):
    got = small(steps=4, every=2, rule=lambda target_logits: float("nan"))
    assert got.step == 4
    assert "the rule gave no finite score at any evaluation" in caplog.messages[-1]
    equal(got.state.theta, small().state.theta)


def test_a_rule_chooses_the_state():
    scores = iter([0.2, 0.9, 0.1, 0.9])
    got = small(rule=lambda target_logits: next(scores), every=1)
    assert got.evaluations["score"].tolist() == [0.2, 0.9, 0.1, 0.9]
    assert (got.step, int(got.state.step)) == (2, 2)
    scores = iter([np.nan, 0.9, np.inf, 0.2])  # what is no number, or infinite, is no score
    assert small(rule=lambda target_logits: next(scores), every=1).step == 2
    held_out = {"source": (X[20:], Y[20:])}
    both = small(keys=jax.random.split(KEY, 2), rule=selection.domain_confusion, evaluate=held_out)
    best = both.evaluations["score"].argmax(1)
    assert both.step.tolist() == (1 + best).tolist() == both.state.step.tolist()
    with pytest.raises(ValueError, match="labelled source examples"):
        small(rule=selection.domain_confusion)
    with pytest.raises(TypeError, match="rule must be a function"):
        small(rule="entropy")


# --- what diverges -----------------------------------------------------------------------


def test_a_training_that_diverges_raises():
    with pytest.raises(Diverged, match="lower the learning rate") as caught:
        small(optimizer=optax.sgd(1e38))
    assert caught.value.term in ("label_loss", "domain_loss", "label_logits")
    first = np.isfinite(caught.value.history["label_loss"]).argmin() + 1
    assert caught.value.step == 2 <= first
    with pytest.raises(Diverged, match="parameters is not finite at step 1"):
        small(steps=1, optimizer=optax.sgd(np.inf))
    with pytest.raises(Diverged, match="look at what preprocess and G_f return"):
        small(preprocess=lambda x: jnp.sqrt(x - 99))


def test_one_of_several_that_diverges_has_no_numbers(caplog):
    def start(i):
        state = init_state(MODEL, optimizer, jax.random.key(i), X[:2])
        return jax.tree.map(lambda a: a * np.float32(np.nan if i else 1), state.theta), state

    optimizer = optax.sgd(0.01)
    theta, states = zip(*map(start, range(2)), strict=True)
    stack = functools.partial(jax.tree.map, lambda *a: jnp.stack(a))
    state = stack(*(s.replace(theta=t) for s, t in zip(states, theta, strict=True)))
    keys, test = jax.random.split(KEY, 2), (T, Y[20:])
    got = small(keys=keys, state=state, optimizer=optimizer, evaluate=test)
    assert got.diverged == [None, (1, "label_loss")]
    assert np.isfinite(got.evaluations["target_accuracy"]).tolist() == [[True] * 4, [False] * 4]
    assert np.isnan(predict(MODEL, got.of(1).state, T)).all()
    assert np.isfinite(predict(MODEL, got.of(0).state, T)).all()
    assert caplog.messages == ["key 1 diverged: label_loss is not finite at step 1"]


# --- what is refused ---------------------------------------------------------------------

NAN = np.where(np.arange(3) == 1, np.nan, X[:20])
REFUSED = [
    ({"y": Y[:20] + 1}, r"count from 1, so pass source labels - 1"),
    ({"y": np.full(20, 7)}, r"source labels\[0\] is 7: expected 0 to 1"),
    ({"y": Y[:20].astype(float)}, r"source labels must be integers, got float64"),
    ({"y": np.array(["a", "b"])[Y[:20]]}, r"source labels must be integers, got <U1"),
    ({"y": np.eye(2)[Y[:20]]}, r"pass y.argmax\(1\) of one-hot labels"),
    ({"y": Y[:19]}, r"expected source labels \[20\], one for each of 20 examples, got \[19\]"),
    ({"y": np.full(20, -1)}, "got -1, not known, for all"),
    ({"x": list(X[:20])}, r"np.asarray\(list\)"),
    ({"x": NAN}, r"source examples\[0, 1\] is nan"),
    ({"target": np.full_like(T, np.inf)}, r"target examples\[0, 0\] is inf"),
    ({"target": jnp.full(T.shape, jnp.nan)}, r"target examples\[0, 0\] is nan"),
    ({"target": T[:0]}, "target examples has no examples"),
    ({"target": None}, "target examples must be arrays"),
    ({"target": T[:3]}, r"3 examples, fewer than its batch of 4: pass batch=\(8, 3\)"),
    ({"target": T[:, :2]}, r"float32\[3\] of the source and float32\[2\] of the target"),
    ({"target": T.astype(int)}, r"float32\[3\] of the source and int32\[3\] of the target"),
    ({"x": X[:20].astype(np.uint8)}, r"source examples are uint8, 0 to 255: pass preprocess="),
    ({"batch": 8}, r"batch must be two whole numbers"),
    ({"steps": 0}, "steps must be at least 1"),
    ({"steps": 2**31}, r"steps must be at most 2,147,483,647, got 2,147,483,648"),
    ({"every": 0}, "every must be at least 1"),
    ({"key": 3}, "key must be one PRNG key"),
    ({"key": None}, r"pass key="),
    ({"preprocess": lambda batch: batch._replace()}, "must take a batch of examples"),
    ({"preprocess": lambda x: x.mean(0)}, "must keep the first axis"),
    ({"preprocess": 3}, "preprocess must be a function"),
    ({"evaluate": T}, r"evaluate 'target' must be \(x, y\)"),
    ({"evaluate": (T[:, :2], Y[20:])}, r"examples to evaluate of shape float32\[3\]"),
    ({"evaluate": {"test": (T, Y[20:] + 1)}}, r"evaluate 'test' labels\[\d+\] is 2"),
    ({"lam": -1.0}, "lam must be a number"),
    ({"optimizer": 0.1}, "optimizer must be an optax transformation"),
    ({"x": np.ma.masked_less(X[:20], 0)}, r"got masked values: pass source examples.filled"),
    ({"y": np.ma.masked_equal(Y[:20], 0)}, r"source labels must be plain arrays, got masked"),
    ({"x": scipy.sparse.csr_matrix(X[:20])}, r"got a sparse one: pass its .toarray\(\)"),
    ({"target": (T, Y[20:])}, "got a tuple: pass x alone, without labels"),
    ({"x": {"a": X[:20]}, "target": {"b": T}}, r"\{'a': \*\}\) of the source and .*\{'b': \*\}"),
    ({"x": X[:20, :0], "target": T[:, :0]}, r"expected examples with a number or more, got \[0\]"),
    (
        {"x": X[:20, 0], "target": T[:, 0]},
        r"is a single number, pass x\[:, None\]",
    ),
    ({"evaluate": (T, np.full(20, -1))}, "got -1, not known, for all examples"),
    ({"devices": [0]}, r"devices must be some of jax.local_devices\(\), got \[0\]"),
    ({"lam": lambda: 1.0}, r"lam must be a function of the step .* takes 0 positional"),
    ({"lam": lambda step: 1.0 if step > 2 else 0.0}, "use jnp.where in place of if"),
    ({"lam": lambda step: np.nan}, "lam of step 0 must be a number, 0 or more and finite, got nan"),
    ({"lam": lambda step: np.zeros(2)}, r"lam of step 0 must be a number.*: return a number"),
    ({"preprocess": lambda x: np.asarray(x) / 2}, "JAX must be able to trace it"),
    ({"state": fitting.Fit(*[None] * 6)}, r"got Fit: pass the state in it, .state"),
    ({"x": X[:20, None], "target": T[:, None], "net": mnist()}, r"pass images\[..., None\]"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_bad_inputs_are_refused_before_anything_is_compiled(options, message):
    small()  # compiles what indexes keys, say
    with runtime.counted() as compiled, pytest.raises((TypeError, ValueError), match=message):
        small(**options)
    assert compiled.programs == 0


def test_preprocessing_of_a_whole_batch_is_refused():
    with pytest.raises(ValueError, match="must treat each example by itself, got another"):
        small(preprocess=lambda x: x - x.mean(0, keepdims=True))


def test_predictions_ask_for_the_preprocessing_of_stored_images_and_for_one_state():
    state = init_state(MODEL, optax.sgd(0.1), KEY, X[:2])
    for call in (predict, features):
        with pytest.raises(ValueError, match="images are uint8, 0 to 255: pass preprocess="):
            call(MODEL, state, X.astype(np.uint8))
        assert len(call(MODEL, state, X.astype(np.uint8), preprocess=lambda x: x * 1.0)) == 40
        several = jax.tree.map(lambda a: jnp.stack([a, a]), state)
        with pytest.raises(ValueError, match=r"got that of 2: pass fitted.of\(0\).state"):
            call(MODEL, several, X)
        with pytest.raises(TypeError, match="got Fit: pass the state in it"):
            call(MODEL, fitting.Fit(state, *[None] * 5), X)
        with pytest.raises(TypeError, match="as inside jax.jit: call evaluation.label_logits"):
            jax.jit(functools.partial(call, MODEL, state))(X)
        for wrong, error, message in (
            (NAN, ValueError, r"images\[0, 1\] is nan: expected finite numbers"),
            (np.full_like(X, 1e300), ValueError, r"images\[0, 0\] is 1e\+300: expected at most"),
            (X + 1j, TypeError, "images must be real numbers, got complex128"),
            (X.astype(str), TypeError, "images must be real numbers, got <U"),
        ):
            with pytest.raises(error, match=message):
                call(MODEL, state, wrong)


# --- the page ----------------------------------------------------------------------------


@pytest.mark.parametrize("program", PROGRAMS, ids=["images", "windows", "table", "weights"])
def test_each_program_of_the_page_runs_in_at_most_25_lines(program, capsys):
    assert len(program.splitlines()) <= 25
    assert max(map(len, program.splitlines())) <= 100
    few, count = re.subn(r"steps = (.*)\b300\b", r"steps = \1 4", program)
    assert count == 1
    exec(compile(few, str(PAGE), "exec"), {"__name__": "page"})
    assert capsys.readouterr().out


def test_what_was_trained_is_kept_and_served_as_the_page_says(tmp_path, monkeypatch, capsys):
    (program,) = re.findall(r"^```py\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "page"}
    exec(re.sub(r"steps = (.*)\b300\b", r"steps = \1 4", PROGRAMS[-1]), names)
    exec(program, names)
    content = pathlib.Path("kept/model.jax_export").read_bytes()
    served = jax.export.deserialize(bytearray(content)).call(names["target"].astype(np.float32))
    logits = predict(names["model"], names["fitted"].state, names["target"])
    np.testing.assert_allclose(served, jax.nn.softmax(logits), atol=1e-5)


def test_a_state_of_another_training_is_refused():
    state = small().state
    for options in (
        {"optimizer": optax.adam(1e-3)},
        {"keys": jax.random.split(jax.random.key(0), 2)},
        {"net": model(classes=3)},
    ):
        with pytest.raises(ValueError, match="expected the state of a training with this model"):
            small(state=state, **options)


def test_a_crop_that_training_does_not_make_is_refused():
    preprocess = Preprocess((0.0,) * 3, (0.0,) * 3, 255.0, crop=24)
    images = np.zeros([20, 28, 28, 3], np.uint8)
    sizes = r"float32\[28, 28, 3\] in training and float32\[24, 24, 3\] in an evaluation"
    with pytest.raises(ValueError, match=sizes):
        small(images, target=images, preprocess=preprocess)
