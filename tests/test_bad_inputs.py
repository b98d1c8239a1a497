"""A table of bad inputs, and the sentence that each gives: what was expected, what was got.

Data folders, archives and result files have tables of their own, in the tests of their modules.
"""

import functools
import re
import shlex

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from dann_jax import (
    DannModel,
    DomainArrays,
    DomainBatch,
    PureFunction,
    accuracy_counts,
    backbones,
    batch_indices,
    checks,
    domain_loss,
    evaluate,
    features,
    gtsrb,
    init_state,
    init_states,
    label_loss,
    label_objective,
    make_optimizer,
    make_stream_steps,
    make_study_steps,
    make_train_steps,
    make_update_step,
    mnist,
    nnx_part,
    predict,
    predicted_classes,
    progress,
    replicate,
    reverse_gradient,
    reversed_objective,
    saddle_objective,
    split_key,
)
from dann_jax.alignment import deviation_bounds, principal_subspace, subspace_alignment
from dann_jax.alignment.linear_svm import Examples, accuracy, choose, fit
from dann_jax.augmentation import center_crop, draw_views
from dann_jax.backbones.weights import Layer, variables
from dann_jax.batches import multiples
from dann_jax.networks import FullyConnected, mnist_batch_norm
from dann_jax.objective import Terms, check_domain
from dann_jax.programs import group_keys
from dann_jax.streaming import batch_stream
from experiments import report, run, verify
from experiments import selection as selection_study
from experiments.benchmark import __main__ as benchmark
from experiments.benchmark import arrays, time_to_accuracy
from experiments.figures import curves, embed, look, moons

KEY = jax.random.key(0)
X, T = np.random.default_rng(0).normal(size=(2, 8, 3)).astype(np.float32)
Y = np.array([0, 2, 1, 0, 2, 1, 0, 1], np.int32)
LOGITS, ONES = np.zeros([8, 3], np.float32), np.ones(8, np.float32)
HALVES = np.array([0, 1] * 4)
OPTIMIZER = make_optimizer(0.1)


def model(f=None, y=None, d=None, **options):
    return DannModel(
        feature_extractor=f or FullyConnected((), 4),
        label_predictor=y or FullyConnected((), 3),
        domain_classifier=d or FullyConnected((), 1),
        **options,
    )


@functools.cache
def state():
    return init_state(model(), OPTIMIZER, KEY, X)


def update(net=None, optimizer=OPTIMIZER, lam=0.5, key=KEY, start=None, options=None, **batch):
    """Makes one update of a batch of which some fields are others."""
    net = net or model()
    step = make_update_step(net, optimizer, lam, **(options or {}))
    if start is None:
        start = state() if net == model() else init_state(net, optimizer, KEY, X)
    return step(start, DomainBatch(X, Y, T)._replace(**batch), key)


def program(examples=(8, 8), batch=(4, 4), labelled=None, steps=1, key=KEY, **options):
    """Calls a training program with arrays of which some are others."""
    arrays = DomainArrays(X, Y, T)._replace(**options.pop("arrays", {}))
    options = {"preprocess": lambda batch: batch, "devices": jax.devices()[:1], **options}
    make_update = options.pop("make", functools.partial(make_update_step, model(), OPTIMIZER, 0.5))
    options |= {"examples": examples, "batch": batch, "labelled": labelled}
    train = make_train_steps(make_update, **options)
    return train(state(), arrays, key, steps)


def study(keys, steps=1, **arrays):
    """Calls the program of a study."""
    train = make_study_steps(
        lambda settings, axis_name: make_update_step(model(), OPTIMIZER, 0.5, axis_name=axis_name),
        examples=(8, 8),
        batch=(4, 4),
        preprocess=lambda batch: batch,
        devices=jax.devices()[:1],
    )
    states = jax.tree.map(lambda a: jnp.stack([a, a]), state())
    return train(states, DomainArrays(X, Y, T)._replace(**arrays), keys, steps)


def stream(source=None, key=KEY, batch=(4, 4), **options):
    records = [{"image": np.zeros([4, 4, 3], np.uint8), "label": 0}] * 8
    return batch_stream(source or records, records, key, batch=batch, workers=0, **options)


def streamed(preprocess):
    """Makes a step of a stream of images of label 0."""
    make = functools.partial(make_update_step, model(), OPTIMIZER, 0.5)

    def flat(batch):
        images = (batch.source_image, batch.target_image)
        source, target = (x.reshape(4, -1)[:, :3].astype(np.float32) for x in images)
        return preprocess(batch._replace(source_image=source, target_image=target))

    train = make_stream_steps(make, preprocess=flat, devices=jax.devices()[:1])
    return train(state(), stream(), KEY, 1)


def numbered(change):
    """A preprocess that changes the numbers of the classes."""
    return lambda batch: batch._replace(source_label=change(batch.source_label))


def changed(value, dtype=None):
    labels = Y.astype(dtype or Y.dtype)
    labels[5] = value
    return labels


def with_value(x, value):
    x = x.copy()
    x.flat[4] = value
    return x


def given(returned):
    """An objective that returns this."""
    return {"objective": lambda theta, batch, lam, apply, axis_name=None: returned}


NONE = Terms(*[None] * 8)


class Inner(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        return nn.Dropout(0.5, deterministic=not train)(nn.Dense(4)(x))


class Forgotten(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        return Inner()(x)


class OtherSwitch(nn.Module):
    @nn.compact
    def __call__(self, x, is_test=True):
        return nn.Dropout(0.5, deterministic=is_test)(nn.Dense(4)(x))


class OtherAttribute(nn.Module):
    train_mode: bool = False

    @nn.compact
    def __call__(self, x):
        return nn.BatchNorm(use_running_average=not self.train_mode)(nn.Dense(4)(x))


class AnyOther(nn.Module):
    @nn.compact
    def __call__(self, x, **kwargs):
        return nn.Dropout(0.5, deterministic=not kwargs.get("train"))(nn.Dense(4)(x))


class Counter(nn.Module):
    @nn.compact
    def __call__(self, x):
        count = self.variable("counter", "n", lambda: jnp.zeros([]))
        count.value += 0 if self.is_initializing() else 1
        return nn.Dense(4)(x)


class WholeNumbers(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(4)(x) + self.param("shift", lambda key: jnp.ones([1, 4], jnp.int32))


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.dense = nnx.Linear(3, 4, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x, **kwargs):
        return self.drop(self.dense(x), deterministic=not kwargs.get("train"))


class Returns(nn.Module):
    function: object

    @nn.compact
    def __call__(self, x):
        return self.function(nn.Dense(4)(x))


def returns(function):
    return Returns(function)


class Backbone(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2, name="fc")(x.mean((1, 2)))


WEIGHTS = {"fc.weight": np.ones([2, 3], np.float32), "fc.bias": np.ones(2, np.float32)}


def weights(**arrays):
    """Reads weights of which some are others; an underscore is a dot."""
    arrays = WEIGHTS | {name.replace("_", "."): array for name, array in arrays.items()}
    arrays = {name: array for name, array in arrays.items() if array is not None}
    return variables(Backbone(), 4, [Layer(("fc",), "fc")], arrays)


CLASSES = r"expected 0 to 2, or -1 where the label is not known or is another class"
ONE_KEY = r"key must be one PRNG key, got .*: pass jax.random.key\(0\)"
WHOLE = r"must be two whole numbers, \(source, target\), got"

# name: (call, error, its sentence)
LABELS = {
    "float64 whole numbers": (
        lambda: update(source_label=Y.astype(np.float64)),
        TypeError,
        r"source_label must be integers, got float64 \(source_label\[0\] is 0.0\): pass the number",
    ),
    "NaN among them": (
        lambda: program(arrays={"source_label": changed(np.nan, np.float32)}),
        TypeError,
        r"source_label must be integers, got float32 \(source_label\[5\] is nan\)",
    ),
    "uint8 255 for unknown": (
        lambda: update(source_label=changed(255, np.uint8)),
        ValueError,
        rf"source_label\[5\] is 255: {CLASSES}",
    ),
    "int64 beyond int32": (
        lambda: update(source_label=changed(2**31, np.int64)),
        ValueError,
        r"source_label\[5\] is 2147483648: expected 0 to",
    ),
    "uint64": (
        lambda: label_loss(LOGITS, changed(2**63, np.uint64)),
        ValueError,
        rf"labels\[5\] is {2**63}: {CLASSES}",
    ),
    "an open set": (
        lambda: update(target_label=changed(3)),
        ValueError,
        rf"target_label\[5\] is 3: {CLASSES}",
    ),
    "beyond the source's for source-only": (
        lambda: update(target_label=changed(77), options={"objective": label_objective}),
        ValueError,
        rf"target_label\[5\] is 77: {CLASSES}",
    ),
    "strings": (
        lambda: update(source_label=np.array(list("abcabcab"))),
        TypeError,
        "source_label must be integers, got <U1: pass the number of each example's class",
    ),
    "strings to evaluate": (
        lambda: evaluate(LOGITS, np.array(list("abcabcab"))),
        TypeError,
        "labels must be integers, got <U1",
    ),
    "objects": (
        lambda: update(source_label=np.array([0, 1, None, 2, 0, 1, 2, 0], object)),
        TypeError,
        "source_label must be integers, got object",
    ),
    "bool": (
        lambda: evaluate(LOGITS, Y > 0),
        TypeError,
        "labels must be integers, got bool",
    ),
    "one-hot": (
        lambda: update(source_label=np.eye(3, dtype=np.int32)[Y]),
        ValueError,
        r"expected source_label \[8\], one label for each of 8 source examples, got \[8, 3\]",
    ),
    "a label beyond the classes after preprocess": (
        lambda: program(preprocess=numbered(lambda y: y + 1)),
        ValueError,
        rf"source_label after preprocess\[1\] is 3: {CLASSES}",
    ),
    "a label of the target beyond the classes after preprocess": (
        lambda: program(
            arrays={"target_label": Y},
            labelled=(8, 4),
            preprocess=lambda batch: batch._replace(target_label=2 * batch.target_label),
        ),
        ValueError,
        rf"target_label after preprocess\[1\] is 4: {CLASSES}",
    ),
    "a label that preprocess makes of the images": (
        lambda: program(
            preprocess=lambda b: b._replace(
                source_label=7 * (b.source_image[:, 0] < np.inf).astype(np.int32)
            )
        ),
        ValueError,
        rf"source_label after preprocess\[0\] is 7: {CLASSES}",
    ),
    "a stream's label beyond the classes after preprocess": (
        lambda: streamed(numbered(lambda y: y + 3)),
        ValueError,
        rf"source_label after preprocess\[0\] is 3: {CLASSES}",
    ),
    "labels of 32 unsigned bits under jax.jit": (
        lambda: jax.jit(make_update_step(model(), OPTIMIZER, 0.5))(
            state(), DomainBatch(X, changed(2**32 - 5, np.uint32), T), KEY
        ),
        TypeError,
        "source_label must fit int32, got uint32, whose values a trace cannot check: call",
    ),
    "one-hot to label_loss": (
        lambda: label_loss(LOGITS, np.eye(3)[Y]),
        ValueError,
        r"expected label logits \[n, classes\] and labels \[n\], got \[8, 3\] and \[8, 3\]: pass",
    ),
    "too few": (
        lambda: update(target_label=Y[:5]),
        ValueError,
        r"expected target_label \[8\], one label for each of 8 target examples, got \[5\]",
    ),
    "none": (
        lambda: update(source_label=None),
        ValueError,
        "expected labels of the source, got None: give source_label",
    ),
    "a list in a program": (
        lambda: program(arrays={"source_label": list(Y)}),
        TypeError,
        "source_label must be an array, got list",
    ),
    "too few in a program": (
        lambda: program(arrays={"source_label": Y[:7]}),
        ValueError,
        "expected arrays of 8 source and 8 target examples, got 8 images with 7 labels, and 8",
    ),
    "of the target in a program": (
        lambda: program(arrays={"target_label": Y}),
        ValueError,
        "expected no labels of the target, got 8: leave out target_label, or put the examples",
    ),
    "unknown among the labelled": (
        lambda: program(arrays={"target_label": changed(-1)}, labelled=(6, 2)),
        ValueError,
        "expected a label of each of the first 6 target examples, got 5: put the labelled",
    ),
    "labelled is a number": (
        lambda: program(arrays={"target_label": Y}, labelled=6),
        TypeError,
        f"labelled {WHOLE} 6",
    ),
    "none to evaluate": (
        lambda: evaluate(LOGITS, None),
        ValueError,
        r"expected logits \[n, classes\] and labels \[n\], got \[8, 3\] and \[\]",
    ),
    "classes in place of logits": (
        lambda: evaluate(Y, Y),
        ValueError,
        r"expected logits \[n, classes\] and labels \[n\], got \[8\] and \[8\]",
    ),
    "unknown to fit an SVM": (
        lambda: fit(Examples(X, changed(-1)), 1.0),
        ValueError,
        "expected a label of each example and at least 2 classes.*1 of 8 without a label.*leave",
    ),
    "of one class to fit an SVM": (
        lambda: choose(Examples(X, np.zeros(8, int))),
        ValueError,
        r"at least 2 classes to fit a linear SVM, got 0 of 8 without a label and classes \[0\]",
    ),
    "NaN to measure an SVM": (
        lambda: accuracy(None, Examples(X, changed(np.nan, float))),
        TypeError,
        r"labels must be integers, got float64 \(labels\[5\] is nan\)",
    ),
    "too few for an SVM": (
        lambda: accuracy(None, Examples(X, Y[:5])),
        ValueError,
        r"expected features \[n, D\] and labels \[n\], got \[8, 3\] and \[5\]",
    ),
}

LOSSES = {
    "one class": (
        lambda: label_loss(LOGITS[:, :1], 0 * Y),
        ValueError,
        r"logits \[n, classes\] of at least 2 classes to tell apart, got \[8, 1\]: let G_y end",
    ),
    "integer logits": (
        lambda: label_loss(LOGITS.astype(int), Y),
        TypeError,
        "label logits must be floating-point, got int32, along which there is no gradient",
    ),
    "a dictionary": (
        lambda: label_loss({"logits": LOGITS}, Y),
        TypeError,
        "expected label logits, an array, got dict",
    ),
    "complex": (
        lambda: domain_loss(np.zeros(8, complex), HALVES),
        TypeError,
        "domain logits must be floating-point, got complex64",
    ),
    "two domain logits": (
        lambda: domain_loss(LOGITS[:, :2], HALVES),
        ValueError,
        r"expected one domain logit .* got \[8, 2\] and \[8\]: let G_d end in one unit",
    ),
    "a third domain": (
        lambda: domain_loss(LOGITS[:, 0], changed(2)),
        ValueError,
        r"domains\[1\] is 2: expected 0 \(source\) or 1 \(target\) \(3 of 8 are others\)",
    ),
    "domains by name": (
        lambda: domain_loss(np.zeros(2), np.array(["source", "target"])),
        ValueError,
        r"domains\[0\] is source: expected 0 \(source\) or 1 \(target\)",
    ),
    "an unknown normalization": (
        lambda: domain_loss(LOGITS[:, 0], HALVES, normalization="sum"),
        ValueError,
        r"unknown normalization 'sum': expected 'mean' \(over the joint batch\) or 'sum_of_means'",
    ),
    "negative weights": (
        lambda: label_loss(LOGITS, Y, with_value(ONES, -2)),
        ValueError,
        r"weights\[4\] is -2.0: expected 0 or more, and finite",
    ),
    "NaN weights": (
        lambda: domain_loss(LOGITS[:, 0], HALVES, with_value(ONES, np.nan)),
        ValueError,
        r"weights\[4\] is nan: expected 0 or more, and finite",
    ),
    "infinite weights": (
        lambda: update(source_weight=with_value(ONES, np.inf)),
        ValueError,
        r"source_weight\[4\] is inf: expected 0 or more, and finite",
    ),
    "complex weights": (
        lambda: update(target_weight=ONES.astype(complex)),
        TypeError,
        "target_weight must be numbers, got complex128: pass float32, 0 for padding",
    ),
    "one weight": (
        lambda: label_loss(LOGITS, Y, 2.0),
        ValueError,
        r"expected one weight for each example \[8\], got weights \[\]",
    ),
    "weights of the other domain": (
        lambda: update(target_image=T[:4], source_weight=ONES[:4], target_weight=ONES),
        ValueError,
        r"expected one weight for each example \[8\], got source_weight \[4\]",
    ),
    "a weight of L_d that is NaN": (
        lambda: reversed_objective(None, None, 0.5, None, domain_weight=np.nan),
        ValueError,
        "domain_weight must be a number, 0 or more and finite, got nan",
    ),
    "a negative weight of L_d": (
        lambda: saddle_objective(None, None, 0.5, None, domain_weight=-1.0),
        ValueError,
        "domain_weight must be a number, 0 or more and finite, got -1.0",
    ),
    "a mask that is a number": (
        lambda: accuracy_counts(LOGITS, Y, True),
        ValueError,
        r"expected a mask of bool \[8\], one for each label, got bool \[\]",
    ),
    "a mask of weights": (
        lambda: accuracy_counts(LOGITS, Y, ONES),
        ValueError,
        r"expected a mask of bool \[8\], one for each label, got float32 \[8\]",
    ),
    "no class": (
        lambda: predicted_classes(np.zeros([8, 0])),
        TypeError,
        r"expected logits \[..., classes\] of real numbers, got float64 \[8, 0\]",
    ),
    "logits that are strings": (
        lambda: evaluate(np.full([8, 3], "a"), Y),
        TypeError,
        r"expected logits \[..., classes\] of real numbers, got <U1 \[8, 3\]",
    ),
    "reversal of integers": (
        lambda: reverse_gradient(np.arange(3), 1.0),
        TypeError,
        "reverse_gradient needs floating-point arrays, got int.*: pass features as float32",
    ),
    "reversal by a vector": (
        lambda: reverse_gradient(X, np.ones(2)),
        ValueError,
        r"lam must be a scalar, got shape \[2\]: pass one number, or map over several",
    ),
    "a schedule of no steps": (
        lambda: progress(0, 0),
        ValueError,
        "steps must be positive, the updates at which p is 1, got 0",
    ),
}

ARRAYS = {
    "NaN": (
        lambda: update(source_image=with_value(X, np.nan)),
        ValueError,
        r"source_image\[1, 1\] is nan: expected finite numbers",
    ),
    "NaN in a program": (
        lambda: program(arrays={"target_image": with_value(T, np.inf)}),
        ValueError,
        r"target_image\[1, 1\] is inf: expected finite numbers",
    ),
    "beyond float32": (
        lambda: update(source_image=with_value(X.astype(float), 1e300)),
        ValueError,
        r"source_image\[1, 1\] is 1e\+300: expected at most 3.4e\+38 \(float32\)",
    ),
    "beyond float32 to the devices": (
        lambda: replicate(with_value(X.astype(float), 1e300)),
        ValueError,
        r"tree\[1, 1\] is 1e\+300: expected at most 3.4e\+38 \(float32\)",
    ),
    "beyond 32 bits to the devices": (
        lambda: replicate(DomainArrays(X, changed(2**40, np.int64), T)),
        ValueError,
        r"tree.source_label\[5\] is 1099511627776: expected .* to 2147483647 \(int32\)",
    ),
    "strings": (
        lambda: update(source_image=X.astype(str)),
        TypeError,
        "source_image must be real numbers, got <U.*: pass pixels as uint8 or float32",
    ),
    "objects to the devices": (
        lambda: replicate({"image": X.astype(object)}),
        TypeError,
        r"tree\['image'\] must be numbers, got an array of object",
    ),
    "complex": (
        lambda: update(source_image=X.astype(complex), target_image=T.astype(complex)),
        TypeError,
        "source_image must be real numbers, got complex128",
    ),
    "no examples": (
        lambda: update(target_image=T[:0]),
        ValueError,
        "target_image has no examples: expected at least one",
    ),
    "a scalar": (
        lambda: update(source_image=np.float32(1)),
        ValueError,
        r"source_image must be arrays with one first axis, that of the examples, got \(\)",
    ),
    "a list": (
        lambda: predict(model(), state(), X.tolist()),
        ValueError,
        r"images must be arrays with one first axis, .*: pass lists as np.asarray\(list\)",
    ),
    "no target": (
        lambda: update(target_image=None),
        ValueError,
        "target_image must be arrays with one first axis, that of the examples, got no arrays",
    ),
    "other widths": (
        lambda: update(target_image=T[:, :2]),
        ValueError,
        r"expected images of the same structure.*got float32\[8, 3\] and float32\[8, 2\]: prepro",
    ),
    "pixels beside scaled ones": (
        lambda: update(target_image=T.astype(np.uint8)),
        ValueError,
        r"same structure, shape and kind of numbers.*got float32\[8, 3\] and uint8\[8, 3\]",
    ),
    "other structures": (
        lambda: update(source_image={"a": X}, target_image={"b": T}),
        ValueError,
        r"same structure.*got {'a': 'float32\[8, 3\]'} and {'b': 'float32\[8, 3\]'}",
    ),
    "inputs of other lengths": (
        lambda: update(source_image={"a": X, "b": X[:4]}),
        ValueError,
        r"source_image must be arrays with one first axis.*got \(8, 3\), \(4, 3\)",
    ),
    "no images to predict": (
        lambda: predict(model(), state(), X[:0]),
        ValueError,
        "no images: expected at least one",
    ),
    "other features to predict": (
        lambda: predict(model(), state(), X[:, :2]),
        ValueError,
        "has parameters of other shapes than its input needs .*: pass the state of this model",
    ),
    "preprocessing that drops some": (
        lambda: predict(model(), state(), X, preprocess=lambda image: image[:2]),
        ValueError,
        r"expected outputs of all 8 examples of a batch, got \[2, 3\]: let preprocess and the net",
    ),
    "preprocessing that is none": (
        lambda: predict(model(), state(), X, preprocess=255),
        TypeError,
        "preprocess must be a function of a batch of images, got 255: leave it out",
    ),
    "a state with its metrics": (
        lambda: features(model(), (state(), None), X),
        TypeError,
        "state must be a TrainState, got tuple: an update and a training program return it first",
    ),
    "half a batch": (
        lambda: predict(model(), state(), X, batch_size=2.5),
        TypeError,
        "batch_size must be a whole number, got 2.5",
    ),
    "an empty batch": (
        lambda: predict(model(), state(), X, batch_size=0),
        ValueError,
        "batch_size must be at least 1, got 0",
    ),
    "a third domain": (
        lambda: predict(model(), state(), X, domain=2),
        ValueError,
        r"unknown domain 2: expected 0 \(source\) or 1 \(target\)",
    ),
    "a domain by name": (
        lambda: features(model(), state(), X, domain="source"),
        ValueError,
        r"unknown domain 'source': expected 0 \(source\) or 1 \(target\)",
    ),
    "a domain that is True": (
        lambda: check_domain(True),
        ValueError,
        r"unknown domain True: expected 0 \(source\) or 1 \(target\), or None \(the joint batch\)",
    ),
    "a domain of a view": (
        lambda: draw_views(KEY, 0, domain=7, positions=np.arange(2), shape=(4, 4, 3), size=2),
        ValueError,
        r"unknown domain 7: expected 0 \(source\) or 1 \(target\)",
    ),
    "an unknown layer": (
        lambda: features(model(), state(), X, layer="f/conv9"),
        ValueError,
        "no layer 'f/conv9': expected one of d, d/logits, f, f/logits, y, y/logits",
    ),
    "a crop beyond the image": (
        lambda: center_crop(np.zeros([1, 4, 4, 3]), 5),
        ValueError,
        "expected a crop of 1 to 4 pixels for images of 4x4, got 5: change the crop",
    ),
    "a crop of what is no image": (
        lambda: center_crop(np.zeros([4, 4]), 2),
        ValueError,
        r"expected images \[..., height, width, channel\], got \[4, 4\]",
    ),
    "features that are not finite": (
        lambda: subspace_alignment(with_value(X, np.nan), None, T),
        ValueError,
        "expected finite features, got nan for feature 1 of example 1: the training.*diverged",
    ),
    "features of other widths": (
        lambda: subspace_alignment(np.tile(X, 2), None, np.tile(T, 3)),
        ValueError,
        "expected as many features in both domains, .*, got 6 and 9 features",
    ),
    "no number of components": (
        lambda: subspace_alignment(X, None, T, candidates=[]),
        ValueError,
        r"numbers of components from 1 on, got 3 and 3 features and \[\]",
    ),
    "a probability of 0": (
        lambda: deviation_bounds(*[principal_subspace(X)] * 2, delta=0.0),
        ValueError,
        r"delta must be a probability, in \(0, 1\), got 0.0",
    ),
    "no weight of an SVM's losses": (
        lambda: fit(Examples(X, Y), 0.0),
        ValueError,
        "expected a weight C of the losses that is positive, got 0.0",
    ),
}

PROGRAMS = {
    "a batch that does not split": (
        lambda: program(batch=(64, 64), devices=jax.devices()[:3]),
        ValueError,
        "batch of 64 source examples cannot be split over 3 devices: choose 63 or 66, 126 or 132",
    ),
    "a batch smaller than the devices": (
        lambda: program(batch=(2, 2), devices=jax.devices()[:3]),
        ValueError,
        "batch of 2 source examples cannot be split over 3 devices: choose 3, 6 of both",
    ),
    "domains that do not split": (
        lambda: program(batch=(6, 4), devices=jax.devices()[:3]),
        ValueError,
        "batch of 4 target examples cannot be split over 3 devices: choose 3 or 6$",
    ),
    "no devices": (
        lambda: program(devices=[]),
        ValueError,
        r"devices must be a list of distinct devices, got \[\]: pass jax.local_devices\(\)",
    ),
    "a number of devices": (
        lambda: program(devices=2),
        ValueError,
        "devices must be a list of distinct devices, got 2",
    ),
    "one device twice": (
        lambda: program(devices=jax.devices()[:1] * 2),
        ValueError,
        "devices must be a list of distinct devices, got",
    ),
    "one size of a batch": (lambda: program(batch=8), TypeError, f"batch {WHOLE} 8: pass batch="),
    "half examples": (lambda: program(batch=(4.0, 4.0)), TypeError, rf"batch {WHOLE} \(4.0, 4.0"),
    "one number of examples": (lambda: program(examples=8), TypeError, f"examples {WHOLE} 8"),
    "an empty batch": (
        lambda: batch_indices(KEY, 0, steps=1, examples=(8, 8), batch=(0, 4)),
        ValueError,
        "the source has 8 examples and 0 a batch: expected at least 1 each",
    ),
    "a batch beyond 32 bits": (
        lambda: batch_indices(KEY, 0, steps=1, examples=(10**6, 8), batch=(10**6 - 1, 4)),
        ValueError,
        "1000000 source examples times a batch of 999999 is beyond 32 bits: make the batch smaller",
    ),
    "a step before the first": (
        lambda: batch_indices(KEY, -1, steps=1, examples=(8, 8), batch=(4, 4)),
        ValueError,
        "first_step must be at least 0, got -1",
    ),
    "half a step": (
        lambda: batch_indices(KEY, 1.5, steps=1, examples=(8, 8), batch=(4, 4)),
        TypeError,
        "first_step must be a whole number, got 1.5",
    ),
    "no steps": (lambda: program(steps=0), ValueError, "steps must be at least 1, got 0"),
    "half of steps": (
        lambda: program(steps=1.5),
        TypeError,
        "steps must be a whole number, got 1.5",
    ),
    "steps by name": (
        lambda: program(steps="all"),
        TypeError,
        "steps must be a whole number, got 'all'",
    ),
    "other examples": (
        lambda: program(examples=(9, 8)),
        ValueError,
        "expected arrays of 9 source and 8 target examples, got 8 images with 8 labels, and 8",
    ),
    "a key that is a seed": (lambda: program(key=0), TypeError, ONE_KEY.replace(".*", "0")),
    "no key": (lambda: update(key=None), TypeError, ONE_KEY.replace(".*", "None")),
    "two keys": (
        lambda: update(key=jax.random.split(KEY, 2)),
        TypeError,
        ONE_KEY.replace(".*", r"key<fry>\[2\]"),
    ),
    "both keys of a training": (lambda: update(key=split_key(KEY)), TypeError, ONE_KEY),
    "a key of floats": (
        lambda: split_key(np.zeros(2)),
        TypeError,
        ONE_KEY.replace(".*", r"float64\[2\]"),
    ),
    "a seed to start from": (lambda: init_state(model(), OPTIMIZER, 0, X), TypeError, ONE_KEY),
    "seeds of a study": (
        lambda: init_states(model(), OPTIMIZER, [0, 1], X),
        TypeError,
        r"keys must be PRNG keys \[K\], got \[0, 1\]: pass K of jax.random.split",
    ),
    "one key of a study": (
        lambda: study(KEY),
        TypeError,
        r"keys must be PRNG keys \[K\], got key<fry>\[\]",
    ),
    "three keys for two states": (
        lambda: study(jax.random.split(KEY, 3)),
        ValueError,
        "expected states and settings of 3 trainings, as many as keys, got arrays with a first",
    ),
    "labels of a study": (
        lambda: study(jax.random.split(KEY, 2), source_label=Y[:5]),
        ValueError,
        "expected arrays of 8 source and 8 target examples, got 8 images with 5 labels",
    ),
    "an update, not one to make": (
        lambda: program(make=make_update_step(model(), OPTIMIZER, 0.5)),
        TypeError,
        r"make_update must be a function of axis_name alone \(.*\): pass functools.partial\(make",
    ),
    "preprocessing of images": (
        lambda: program(preprocess=lambda batch: batch.source_image),
        TypeError,
        r"preprocess must return a DomainBatch, got .*: return batch._replace\(source_image=",
    ),
    "arrays that are a tuple": (
        lambda: make_train_steps(
            functools.partial(make_update_step, model(), OPTIMIZER, 0.5),
            examples=(8, 8),
            batch=(4, 4),
            preprocess=lambda batch: batch,
            devices=jax.devices()[:1],
        )(state(), (X, Y, T), KEY, 1),
        TypeError,
        "expected DomainArrays, got tuple",
    ),
    "none together": (
        lambda: group_keys([0, 1], 1, together=0),
        ValueError,
        "together must be at least 1, got 0",
    ),
    "three of four devices": (
        lambda: group_keys([0, 1], 4, devices_per_key=3),
        ValueError,
        "devices_per_key must be a divisor of the 4 devices, got 3",
    ),
    "a stream that is a list": (
        lambda: make_stream_steps(
            functools.partial(make_update_step, model(), OPTIMIZER, 0.5),
            preprocess=lambda batch: batch,
        )(state(), [DomainBatch(X, Y, T)], KEY, 1),
        TypeError,
        "stream must be that of streaming.batch_stream, got list: for batches of your own call",
    ),
    "records that are tuples": (
        lambda: stream([(X, 0)] * 8),
        TypeError,
        r"expected records {'image': \[height, width, channel\], 'label': ...}, got tuple in rec",
    ),
    "grey records without channels": (
        lambda: stream([{"image": np.zeros([4, 4], np.uint8), "label": 0}] * 8),
        TypeError,
        r"got image \[4, 4\], label \[\] in record 0 of the source: give grey images an axis of",
    ),
    "a stream before the first step": (
        lambda: stream(first_step=-1),
        ValueError,
        "first_step must be at least 0, got -1",
    ),
    "a stream of processes": (
        lambda: stream(shard=(0, 3)),
        ValueError,
        "batch of 4 source examples cannot be split over 3 processes: choose 3 or 6",
    ),
    "a crop of a stream": (
        lambda: stream(crop=9),
        ValueError,
        "expected a crop of 1 to 4 pixels for images of 4x4, got 9",
    ),
}

MODULES = {
    "a class": (
        lambda: model(f=Inner),
        TypeError,
        "expected a Flax Linen module or a PureFunction as feature_extractor, got type: wrap it",
    ),
    "a function": (
        lambda: model(y=lambda x: x),
        TypeError,
        r"a PureFunction as label_predictor, got function: wrap it as PureFunction\(init, apply\)",
    ),
    "an NNX module as it is": (
        lambda: model(d=nnx.Linear(3, 4, rngs=nnx.Rngs(0))),
        TypeError,
        r"a PureFunction as domain_classifier, got Linear: .* or an NNX module as nnx_part\(mod",
    ),
    "a PureFunction of numbers": (
        lambda: model(f=PureFunction(3, 4)),
        TypeError,
        r"expected functions \(key, x\) -> theta .* of feature_extractor, got 3 and 4",
    ),
    "a Linen module as NNX": (
        lambda: nnx_part(nn.Dense(4)),
        TypeError,
        "expected an nnx.Module or a function rngs -> .*, got Dense: a Linen module is a part as",
    ),
    "a function that makes no NNX module": (
        lambda: update(model(f=nnx_part(lambda rngs: None))),
        TypeError,
        "expected a function rngs -> nnx.Module, got one that returns NoneType",
    ),
    "NNX with **kwargs": (
        lambda: update(model(f=nnx_part(Nnx))),
        TypeError,
        r"Nnx cannot be told training from prediction: its __call__ takes \*\*kwargs and names no",
    ),
    "Linen with **kwargs": (
        lambda: model(f=AnyOther()),
        TypeError,
        r"AnyOther cannot be told training from prediction: .*\*\*kwargs.*declare one of train,",
    ),
    "a switch that is not passed on": (
        lambda: update(model(f=Forgotten())),
        TypeError,
        "dropout Inner_0/Dropout_0 is off in training: pass it deterministic=not train, with",
    ),
    "a switch of another name": (
        lambda: update(model(f=OtherSwitch())),
        TypeError,
        "dropout Dropout_0 is off in training: pass it deterministic=not train",
    ),
    "an attribute of another name": (
        lambda: update(model(f=OtherAttribute())),
        TypeError,
        "batch norm BatchNorm_0 has fixed statistics in training: pass it use_running_average=not",
    ),
    "layers in a row": (
        lambda: model(f=nn.Sequential([nn.Dense(4), nn.Dropout(0.5, deterministic=True)])),
        TypeError,
        "Sequential cannot be told training from prediction: nn.Sequential passes its layers no",
    ),
    "a state that predictions change": (
        lambda: update(model(f=Counter())),
        TypeError,
        'Counter changes a state outside training .*"n".*: change it only where a switch',
    ),
    "parameters that are integers": (
        lambda: init_state(model(f=WholeNumbers()), OPTIMIZER, KEY, X),
        TypeError,
        r"theta\['shift'\] of G_f is int32: expected parameters, which are floating-point",
    ),
    "features of no example": (
        lambda: update(model(f=returns(jnp.sum))),
        ValueError,
        r"features must be arrays with one first axis, that of the examples, got \(\)",
    ),
    "features of some examples": (
        lambda: update(model(f=returns(lambda x: x[:4]))),
        ValueError,
        r"G_f must return features \[n, ...\] of all n=8 examples, got \[4, 4\]",
    ),
    "features that are none": (
        lambda: update(model(f=returns(lambda x: None))),
        ValueError,
        "features must be arrays with one first axis, that of the examples, got no arrays",
    ),
    "fewer classes than labels": (
        lambda: update(model(y=FullyConnected((), 2))),
        ValueError,
        r"source_label\[1\] is 2: expected 0 to 1, or -1 where .* \(2 of 8 are others\)",
    ),
    "one class": (
        lambda: update(model(y=FullyConnected((), 1)), source_label=0 * Y),
        ValueError,
        r"at least 2 classes to tell apart, got \[8, 1\]: let G_y end in a unit for each class",
    ),
    "two outputs of G_d": (
        lambda: update(model(d=FullyConnected((), 2))),
        ValueError,
        r"expected one domain logit .*, got \[16, 2\] and \[16\]: let G_d end in one unit",
    ),
    "logits in a dictionary": (
        lambda: update(model(y=returns(lambda x: {"logits": x}))),
        TypeError,
        "expected label logits, an array, got dict",
    ),
    "decisions in place of logits": (
        lambda: update(model(d=returns(lambda x: (x[:, 0] > 0).astype(int)))),
        TypeError,
        "domain logits must be floating-point, got int32, along which there is no gradient",
    ),
    "no classes": (
        lambda: mnist(classes=0),
        ValueError,
        "outputs, the number of classes, must be at least 1, got 0",
    ),
    "classes that are a string": (
        lambda: mnist(classes="10"),
        TypeError,
        "outputs, the number of classes, must be a whole number, got '10'",
    ),
    "a dropout rate of 2": (
        lambda: update(model(f=FullyConnected((4,), 4, dropout_rate=2.0))),
        ValueError,
        "dropout_rate must be a number, 0 or more and below 1, got 2.0",
    ),
    "a bound of 0": (
        lambda: model(max_norm=0.0),
        ValueError,
        "max_norm must be a number, positive and finite, got 0.0: pass None for no bound",
    ),
    "unknown statistics": (
        lambda: jax.eval_shape(
            lambda: init_state(
                mnist_batch_norm(statistics="x"), OPTIMIZER, KEY, np.zeros([2, 32, 32, 3])
            )
        ),
        ValueError,
        "unknown batch statistics 'x': expected 'shared' or 'per_domain'",
    ),
    "images of 15 pixels": (
        lambda: init_state(mnist(), OPTIMIZER, KEY, np.zeros([2, 15, 15, 3])),
        ValueError,
        r"images \[n, height, width, channel\] of at least 16x16 pixels, got \[n, 15, 15, 3\]",
    ),
    "signs of 24 pixels": (
        lambda: init_state(gtsrb(), OPTIMIZER, KEY, np.zeros([2, 24, 24, 3])),
        ValueError,
        r"of at least 32x32 pixels, got \[n, 24, 24, 3\]: use larger images",
    ),
    "images without channels": (
        lambda: init_state(mnist(), OPTIMIZER, KEY, np.zeros([2, 32, 32])),
        ValueError,
        r"expected images .*got \[n, 32, 32\]: pass images\[..., None\]",
    ),
    "channels first": (
        lambda: init_state(mnist(), OPTIMIZER, KEY, np.zeros([2, 3, 32, 32])),
        ValueError,
        r"expected images .*got \[n, 3, 32, 32\]: pass images.transpose",
    ),
    "a shape in place of images": (
        lambda: init_state(model(), OPTIMIZER, KEY, (8, 3)),
        ValueError,
        "image must be arrays with one first axis, that of the examples",
    ),
}

UPDATES = {
    "no optimizer": (
        lambda: init_state(model(), None, KEY, X),
        TypeError,
        r"optimizer must be an optax transformation, got NoneType: pass make_optimizer\(0.01\)",
    ),
    "a learning rate in its place": (
        lambda: make_update_step(model(), 0.1, 0.5),
        TypeError,
        "optimizer must be an optax transformation, got float",
    ),
    "a function in its place": (
        lambda: make_update_step(model(), optax.sgd, 0.5),
        TypeError,
        "optimizer must be an optax transformation, got function",
    ),
    "arguments in another order": (
        lambda: make_update_step(OPTIMIZER, model(), 0.5),
        TypeError,
        "model must be a DannModel, got GradientTransformation",
    ),
    "no learning rate": (
        lambda: make_optimizer(None),
        TypeError,
        "mu must be a number, 0 or more and finite, got None: pass a number, or a function of the",
    ),
    "a learning rate in words": (lambda: make_optimizer("0.1"), TypeError, "mu .*, got '0.1'"),
    "NaN": (lambda: make_optimizer(np.nan), ValueError, "mu must be .* finite, got nan: pass"),
    "a negative one": (lambda: make_optimizer(-0.1), ValueError, "mu .* 0 or more .*, got -0.1"),
    "two of them": (lambda: make_optimizer(X[0, :2]), TypeError, r"mu must be a number.*array\("),
    "momentum of 1": (
        lambda: make_optimizer(0.1, momentum=1.0),
        ValueError,
        "momentum must be a number, 0 or more and below 1, got 1.0",
    ),
    "negative decay": (
        lambda: make_optimizer(0.1, weight_decay=-1e-4),
        ValueError,
        "weight_decay must be a number, 0 or more and finite, got -0.0001",
    ),
    "factors in a dictionary": (
        lambda: make_optimizer(0.1, factors={"f": 1.0}),
        TypeError,
        "factors must be a function of a parameter's path, got {'f': 1.0}: pass lambda path",
    ),
    "no lambda": (
        lambda: make_update_step(model(), OPTIMIZER, None),
        TypeError,
        "lam must be a number, 0 or more and finite, got None: pass a number, or a function of",
    ),
    "lambda in words": (lambda: update(lam="1"), TypeError, "lam must be a number.*got '1'"),
    "lambda that is True": (lambda: update(lam=True), TypeError, "lam must be a number.*got True"),
    "lambda that is NaN": (lambda: update(lam=np.nan), ValueError, "lam must be.*finite, got nan"),
    "a negative lambda": (lambda: update(lam=-1.0), ValueError, "lam .* 0 or more .*, got -1.0"),
    "a vector of them": (lambda: update(lam=jnp.ones(3)), TypeError, "lam must be a number.*Array"),
    "a function that returns none": (
        lambda: update(lam=lambda step: None),
        TypeError,
        r"lam must be a real scalar, got NoneType: pass a number or an array of shape \[\]",
    ),
    "an objective by name": (
        lambda: update(options={"objective": "reversed"}),
        TypeError,
        "objective must be a function such as reversed_objective, got 'reversed'",
    ),
    "an objective without terms": (
        lambda: update(options=given(jnp.float32(1))),
        TypeError,
        r"the objective must return its value and Terms, got .*: return value, Terms\(...\) with",
    ),
    "an objective with a dictionary": (
        lambda: update(options=given((jnp.float32(1), {}))),
        TypeError,
        "the objective must return its value and Terms, got .* and dict",
    ),
    "an objective of each example": (
        lambda: update(options=given((jnp.ones(8), NONE))),
        TypeError,
        r"value of the objective must be a floating-point scalar, got float32\[8\]: take the mean",
    ),
    "a batch that is a tuple": (
        lambda: make_update_step(model(), OPTIMIZER, 0.5)(state(), (X, Y, T), KEY),
        TypeError,
        "expected a DomainBatch, got tuple: pass DomainBatch",
    ),
    "no state": (
        lambda: make_update_step(model(), OPTIMIZER, 0.5)(None, DomainBatch(X, Y, T), KEY),
        TypeError,
        "state must be a TrainState, got NoneType: pass that of init_state, or the first of the",
    ),
    "parameters in place of the state": (
        lambda: update(start=state().theta),
        TypeError,
        "state must be a TrainState, got dict",
    ),
    "the state of another model": (
        lambda: update(model(f=FullyConnected((), 5)), start=state()),
        ValueError,
        "FullyConnected has parameters of other shapes than its input needs .*: pass the state of",
    ),
    "an axis that nothing maps": (
        lambda: update(options={"axis_name": "device"}),
        ValueError,
        r"axis_name 'device' is not that of a mapped axis: run the update under jax.pmap\(update",
    ),
    "labels under 64 bits": (
        lambda: under_64_bits(lambda: update(source_label=changed(2**40, np.int64))),
        ValueError,
        rf"source_label\[5\] is {2**40}: expected 0 to",
    ),
}


def under_64_bits(call):
    with jax.enable_x64(True):
        return call()


BACKBONES = {
    "an unknown backbone": (
        lambda: backbones.load_weights("resnet51"),
        ValueError,
        r"unknown backbone 'resnet51': expected one of \['alexnet', ",
    ),
    "no file": (
        lambda: backbones.load_weights("resnet50", "/nowhere/weights.pth"),
        FileNotFoundError,
        "no file /nowhere/weights.pth: expected the weights of resnet50 .source: torchvision's",
    ),
    "no name of a file": (
        lambda: backbones.load_weights("resnet50"),
        FileNotFoundError,
        "expected a file with the weights of resnet50, got no name: name one",
    ),
    "a missing array": (lambda: weights(fc_bias=None), ValueError, "^missing: fc.bias$"),
    "an array of another network": (
        lambda: weights(conv1_weight=X),
        ValueError,
        "^unexpected: conv1.weight$",
    ),
    "another shape": (
        lambda: weights(fc_weight=np.ones([3, 2], np.float32)),
        ValueError,
        r"^wrong: fc.weight \(3, 2\) for \(2, 3\)$",
    ),
    "integers": (
        lambda: weights(fc_bias=np.ones(2, int)),
        ValueError,
        "^wrong: fc.bias of int64$",
    ),
    "NaN in weights": (
        lambda: weights(fc_bias=np.full(2, np.nan)),
        ValueError,
        "^wrong: fc.bias with numbers that are not finite$",
    ),
    "a model without a backbone": (
        lambda: backbones.with_weights(state(), {"params": {"fc": {"kernel": X}}}),
        ValueError,
        "expected a G_f with a submodule `backbone`.*, got one without it: make it as networks.off",
    ),
}

TABLES = {
    "labels": LABELS,
    "losses": LOSSES,
    "arrays": ARRAYS,
    "programs": PROGRAMS,
    "modules": MODULES,
    "updates": UPDATES,
    "backbones": BACKBONES,
}
ROWS = [
    pytest.param(*row, id=f"{table}: {name}")
    for table, rows in TABLES.items()
    for name, row in rows.items()
]


@pytest.mark.parametrize(("call", "error", "sentence"), ROWS)
def test_the_library_says_what_is_wrong(call, error, sentence):
    with pytest.raises(error, match=sentence) as caught:
        call()
    assert type(caught.value) is error


# --- command lines -----------------------------------------------------------------------

DIGITS = "digits_digits_m"
RESULTS = report.FOLDER / DIGITS
MAINS = {
    "run": run.main,
    "verify": verify.main,
    "report": report.main,
    "curves": curves.main,
    "embed": embed.main,
    "look": look.main,
    "moons": moons.main,
    "selection": selection_study.main,
    "benchmark": benchmark.main,
    "until": time_to_accuracy.main,
    "arrays": arrays.main,
}
COUNT = "must be at least 1 and at most 2147483647, got"
UNSET = "expected a value after {}, got '': is a variable of the shell unset"
AT_MOST = "{} must be a number that float32 can hold, 1e-38 to 3e38, got"

# The words after the program's name, and the sentence. FILE is a file, RESULTS a folder of results.
COMMANDS = [
    ("run nonsense", "unknown config 'nonsense': expected one of digits_digits_m, .*mnist_svhn, "),
    ("run Digits_Digits_M", "unknown config .*: did you mean digits_digits_m"),
    ("run ''", "unknown config '': expected one of digits_digits_m"),
    ("run DIGITS DIGITS", "unknown argument digits_digits_m: see python -m experiments.run"),
    ("run DIGITS --keyz 3", "unknown option --keyz 3: did you mean --keys"),
    ("run DIGITS --divergance", "unknown option --divergance: did you mean --divergence"),
    ("run DIGITS --divergence yes", "unknown argument yes: see python -m experiments.run"),
    ("run DIGITS --keys ''", UNSET.format("--keys")),
    ("run DIGITS --keys 0", "--keys and --checkpoint-every must be at least 1.*got 0, 5000"),
    ("run DIGITS --keys 1.5", "--keys: expected a whole number, got '1.5'"),
    ("run DIGITS --keys nan", "--keys: expected a whole number, got 'nan'"),
    ("run DIGITS --keys 1e3", "--keys: expected a whole number, got '1e3'"),
    ("run DIGITS --keys", "--keys: expected a whole number, got none"),
    (f"run DIGITS --keys {'9' * 5000}", "--keys: expected a whole number, got a number with too"),
    (
        "run DIGITS --keys 4294967296",
        "at most 10,000 keys in a call, .* got --keys 4294967296 .*lower",
    ),
    (
        "run DIGITS --keys 2 --first-key 4294967295",
        "from 0 to 4294967295, got .* --first-key 4294967295",
    ),
    ("run DIGITS --first-key -1", "--first-key at least 0; got 1, 5000 and -1"),
    (f"run DIGITS --steps {10**20}", f"steps {COUNT} {10**20}"),
    ("run DIGITS --steps 2147483648", f"steps {COUNT} 2147483648"),
    ("run DIGITS --steps -5", f"steps {COUNT} -5"),
    ("run DIGITS --steps ten", "--steps: expected a whole number, got 'ten'"),
    ("run DIGITS --baseline-steps x", "--baseline-steps: expected None or a whole number, got 'x'"),
    (f"run DIGITS --evaluate-every {10**20}", f"evaluate_every {COUNT} {10**20}"),
    ("run DIGITS --checkpoint-every 0", "--checkpoint-every must be at least 1.*got 1, 0 and 0"),
    ("run DIGITS --lambda-horizon 0", f"lambda_horizon {COUNT} 0"),
    (
        "run DIGITS --batch-size 7",
        "batch_size must be even .half source, half target., got 7: choose 6 or 8",
    ),
    (
        "run DIGITS --batch-size 100000000",
        "a batch of 100000000 examples takes [0-9,]+ GB or more, and .* free: lower --batch-size",
    ),
    ("run DIGITS --batch-size 10000000000", f"batch_size {COUNT} 10000000000"),
    (
        "run DIGITS --image-size 100000",
        "a batch of 64 examples takes .* GB .*, or the size of the images",
    ),
    (
        "run DIGITS --image-size 4",
        "image_size must be at least 16 for the network mnist_batch_norm, got 4",
    ),
    ("run DIGITS --crop 15", "crop must be at least 16 for the network mnist_batch_norm, got 15"),
    ("run DIGITS --crop 40", "crop must be at most image_size 28, got 40"),
    ("run DIGITS --network gtsrb", "image_size must be at least 32 for the network gtsrb, got 28"),
    ("run DIGITS --classes none", "--classes: expected None or a whole number, got 'none'"),
    ("run DIGITS --few-labels 0", f"few_labels {COUNT} 0"),
    (
        "run DIGITS --few-labels 3 --few-labels-in-batch 64",
        "less than the target half of a batch, 32, got 64",
    ),
    (
        "run DIGITS --methods few-labels",
        "few-labels trains on some labels .*: set with --few-labels how many",
    ),
    (
        "run DIGITS --methods mean-teacher",
        "mean-teacher learns from an average .*: set it with --average-decay",
    ),
    (
        "run DIGITS --normalize-images --crop 24",
        "normalize_images is for whole images: leave out crop, mirror and frozen",
    ),
    (
        "run office31_amazon_webcam_frozen --augment light",
        "augment is for images, not a backbone's outputs: leave out frozen",
    ),
    ("run DIGITS --drop-at 1.5", r"drop_at must be in \[0, 1\], got 1.5"),
    ("run DIGITS --held-out 1", r"held_out must be in \[0, 1\), got 1"),
    ("run DIGITS --held-out 0.1", "--held-out 0.1 is for a folder without test images, and digits"),
    ("run own_photos --target .", "for data of your own: give --source too; a folder of images is"),
    ("run own_pair", "for data of your own: give --source and --target too; a folder of images is"),
    ("run DIGITS --adam-b1 1", r"adam_b1 must be in \[0, 1\), got 1"),
    ("run DIGITS --methods", "--methods names each method at most once, and at least one"),
    (
        "run DIGITS --methods dann dann",
        "--methods names each method at most once, and at least one",
    ),
    ("run DIGITS --methods dam", "--methods: expected one of .*, got 'dam': did you mean dan"),
    ("run DIGITS --methods dann,sa", "--methods: expected one of .*, got 'dann,sa': did you mean"),
    (
        "run DIGITS --network minst",
        "--network: expected one of mnist, .*, got 'minst': did you mean mnist",
    ),
    (
        "run DIGITS --network office",
        "expected a backbone for the networks office, .*got network office and backbone None",
    ),
    (
        "run DIGITS --backbone resnet50",
        "expected a backbone for .* and for no other, got network mnist_batch_norm",
    ),
    (
        "run DIGITS --network office --backbone resnet51",
        "--backbone: expected one of .*, got 'resnet51': did you mean resnet50",
    ),
    (
        "run DIGITS --network office --backbone resnet50",
        "expected a file with the weights of resnet50, got no name: .*--weights .* names one",
    ),
    (
        "run DIGITS --network office --backbone resnet50 --weights FILE/x",
        "no file FILE/x: expected the weights of resnet50",
    ),
    ("run DIGITS --weights FILE", "weights and frozen are a backbone's: name a --backbone too"),
    ("run DIGITS --frozen", "weights and frozen are a backbone's: name a --backbone too"),
    (
        "run DIGITS --mean backbone",
        "mean backbone needs a backbone: name one, or choose joint",
    ),
    ("run DIGITS --dtype float64", "--dtype: expected one of float32, bfloat16, got 'float64'"),
    (
        "run DIGITS --normalization sum",
        "--normalization: expected one of mean, sum_of_means, got 'sum'",
    ),
    ("run DIGITS --mu0 nan", "mu0 must be positive, got nan"),
    ("run DIGITS --mu0 1e400", "mu0 must be positive, got inf"),
    ("run DIGITS --mu0 1e-400", "mu0 must be positive, got 0.0"),
    ("run DIGITS --mu0 1e-300", f"{AT_MOST.format('mu0')} 1e-300, which is 0.0 there"),
    ("run DIGITS --mu0 1,5", "--mu0: expected a number, got '1,5'"),
    ("run DIGITS --mu0 0.1 0.2", "unknown argument 0.2: see python -m experiments.run"),
    ("run DIGITS --alpha -1", "alpha must not be negative, got -1.0"),
    ("run DIGITS --beta 1e39", f"{AT_MOST.format('beta')} 1e.39, which is inf there"),
    ("run DIGITS --gamma nan", "gamma must not be negative, got nan"),
    ("run DIGITS --momentum 1", "momentum must be in .0, 1., got 1.0"),
    ("run DIGITS --weight-decay -1", "weight_decay must not be negative, got -1.0"),
    ("run DIGITS --domain-weight inf", "domain_weight must not be negative, got inf"),
    ("run DIGITS --input-scale 0", "input_scale must be positive, got 0.0"),
    (
        "run DIGITS --input-scale 1e300",
        f"{AT_MOST.format('input_scale')} 1e.300, which is inf there",
    ),
    ("run DIGITS --mirror=3", "unknown argument 3: see python -m experiments.run"),
    ("run DIGITS --source ''", UNSET.format("--source")),
    (
        "run DIGITS --source mnits",
        "expected the name of a data set .*, got 'mnits': did you mean mnist",
    ),
    ("run DIGITS --source gtsrb", "gtsrb has 43 classes, but --classes is 10"),
    ("run DIGITS --source-train tarin", "expected a split of digits .train, test., got 'tarin'"),
    ("run DIGITS --output ''", UNSET.format("--output")),
    (
        "run DIGITS --output FILE",
        "--output FILE: expected a folder, but FILE is a file: choose another",
    ),
    ("run DIGITS --output FILE/x", "--output FILE/x: expected a folder, but FILE is a file"),
    (
        f"run DIGITS --output {'a' * 300}",
        "--output: expected the path of a folder, got 'a+' .File name too long",
    ),
    ("run DIGITS --data-dir FILE", "--data-dir FILE: expected a folder, but FILE is a file"),
    (
        "run DIGITS --manual-dir FILE",
        "--manual-dir FILE: expected a folder of data files, got none: name",
    ),
    ("run DIGITS --devices 99", "--devices 99: this process has [0-9]+"),
    (
        "run DIGITS --devices-per-key 3",
        "--devices-per-key 3: expected a divisor of the number of devices, 4",
    ),
    ("run DIGITS --together 0", "--together must be auto or at least 1, got 0"),
    ("run DIGITS --together many", "--together: expected auto or a whole number, got 'many'"),
    (
        "run DIGITS --streaming --together 2",
        "--streaming reads batches for one key at a time.*: leave out",
    ),
    ("run DIGITS --distributed --devices 2", "--distributed trains one key at a time.*: leave out"),
    ("run DIGITS --coordinator host:1", "--coordinator, .* need --distributed: add it"),
    (
        "run DIGITS --distributed --coordinator x",
        "expected --coordinator, --processes and --process-id, or none",
    ),
    (
        "run DIGITS --distributed --coordinator x:1 --processes 2 --process-id 2",
        "a --process-id from 0 to below --processes, got x:1, 2 and 2",
    ),
    (
        "run table1 --source digits",
        "--source cannot be the same for all rows of a table: run the rows",
    ),
    ("run table1 --steps 0", f"steps {COUNT} 0"),
    ("run DIGITS --select best", "--select: expected one of entropy, .*, got 'best'"),
    ("run DIGITS --sweep gamma=5", "--sweep trains one method: name it with --methods, got source"),
    ("run DIGITS --methods sa --sweep gamma=5", "--sweep trains one method: .*, got sa"),
    (
        "run DIGITS --methods dann dan --sweep gamma=5",
        "--sweep trains one method: .* got dann, dan",
    ),
    (
        "run DIGITS --methods dann --sweep",
        "--sweep: expected NAME=VALUE,VALUE,.* setting, got none",
    ),
    ("run DIGITS --methods dann --sweep gamma", "--sweep: expected NAME=VALUE,.*, got 'gamma'"),
    (
        "run DIGITS --methods dann --sweep gama=5",
        "--sweep: 'gama' is no numeric setting: did you mean gamma",
    ),
    ("run DIGITS --methods dann --sweep network=mnist", "'network' is no numeric setting: "),
    (
        "run DIGITS --methods dann --sweep gamma=",
        "--sweep gamma: expected numbers between commas, got none",
    ),
    ("run DIGITS --methods dann --sweep gamma=5,x --list", "expected numbers between .*, got 'x'"),
    ("run DIGITS --methods dann --sweep gamma=1_0", "expected numbers between .*, got '1_0'"),
    ("run DIGITS --methods dann --sweep steps=٣", "expected whole numbers between .*, got '٣'"),
    ("run DIGITS --methods dann --sweep steps=1.5", "expected whole numbers between .*, got '1.5'"),
    ("run DIGITS --methods dann --sweep gamma=5,5.0", "--sweep gamma: expected each value once"),
    (
        "run DIGITS --methods dann --sweep gamma=5 gamma=6",
        "expected each setting once, got gamma again",
    ),
    ("run DIGITS --methods dann --sweep gamma=5,-1", "gamma must not be negative, got -1.0"),
    ("run DIGITS --methods dann --sweep mu0=0.1,nan", "mu0 must be positive, got nan"),
    ("run DIGITS --methods dann --sweep mu0=1e-400", "mu0 must be positive, got 0.0"),
    ("run DIGITS --methods dann --sweep batch_size=64,3", "batch_size must be even .*, got 3"),
    ("run DIGITS --methods dann --sweep gamma=5,6 --keys 0", "must be at least 1.*got 0, 5000"),
    (
        "run DIGITS --methods dann --sweep gamma=5,6 --sweep-random 3",
        "--sweep-random must be 1 to 2, all combinations, got 3",
    ),
    ("run DIGITS --sweep-random 3", "--sweep-random draws from the combinations of --sweep"),
    ("run table1 --methods dann --sweep gamma=5", "--sweep is of one config: name a row of table1"),
    (
        "selection",
        "the following arguments are required: runs: see python -m experiments.selection",
    ),
    (
        "selection RESULTS/dann.json",
        "dann.json: expected a result made with --select, got a result",
    ),
    ("selection FILE", "FILE is not valid JSON"),
    ("selection RESULTS --output x.csv", "--output x.csv: expected a name that ends in .json"),
    ("verify", "the following arguments are required: result: see python -m experiments.verify"),
    ("verify ''", UNSET.format("the program's name")),
    ("verify FILE.json", "FILE.json: expected a result CONFIG/METHOD.json, got no file"),
    ("verify .", ".: expected a JSON file, got a folder"),
    ("report missing.md", "missing.md: no such file or directory"),
    ("report .", ".: is a directory"),
    ("verify FILE", "FILE is not valid JSON"),
    ("verify RESULTS/dann.json --key 99", "--key 99: the file has 0, 1, 2, 3, 4"),
    ("verify RESULTS/dann.json --key x", "argument --key: invalid int value: 'x': see"),
    (
        "verify RESULTS/dann.json --steps 1501",
        "--steps must be 1 to 1500, those of the file, got 1501",
    ),
    ("verify RESULTS/dann.json --devices 0", "--devices 0: this process has"),
    ("verify RESULTS/dann.json --tolerance nan", "--tolerance must be a number from 0 on, got nan"),
    (
        "verify RESULTS/dann.json --nonsense",
        "unrecognized arguments: --nonsense: see python -m exp",
    ),
    ("verify RESULTS/sa.json", "follows from trainings.*: verify source-only.json"),
    ("report FILE", "FILE must have the markers of a table: "),
    (
        "report --nonsense",
        "unrecognized arguments: --nonsense: see python -m experiments.report --help",
    ),
    ("report ''", UNSET.format("the program's name")),
    ("curves", "expected folder, got none: see python -m experiments.curves --help"),
    ("curves RESULTS/none", "no results in RESULTS/none: expected one of few-labels.json, "),
    (
        "curves RESULTS --panels proxy-a-distance",
        "panel proxy-a-distance: none of the results .* has it: train with .*--divergence",
    ),
    (
        "curves RESULTS --panels domain_confusion",
        "panel domain_confusion: none of the results .* has it: train with .*--select, or leave",
    ),
    ("curves RESULTS --variant x", "no results in RESULTS: expected one of few-labels-x.json, "),
    ("curves RESULTS --panels x", "--panels: expected one of target-error, .*, got 'x'"),
    (
        "curves RESULTS --output x.jpg",
        "x.jpg: expected a name that ends in .png or .svg, got '.jpg'",
    ),
    ("curves RESULTS --output FILE/x.png", "--output FILE: expected a folder, but FILE is a file"),
    ("embed RESULTS", "no finished training in RESULTS/source-only/key_0: train it"),
    ("embed RESULTS --images 4", "--images must be at least 5, got 4"),
    ("embed RESULTS --seed 4294967296", "--seed must be 0 to [0-9]+, got 4294967296"),
    ("embed RESULTS --key -1", "--key must be 0 to [0-9]+, got -1"),
    ("embed RESULTS --perplexity nan", "--perplexity must be between 1 and the number of images"),
    ("embed RESULTS --methods dann dann", "--methods must name each method at most once"),
    ("look", "expected a PAIR: one of digits_digits_m, "),
    ("look nonsense", "unknown config 'nonsense': expected one of digits_digits_m"),
    (
        "look DIGITS --columns 100000000000",
        "must be at least 1 and at most 100, got 100000000000 and 12",
    ),
    ("look DIGITS --rows 0", "--columns and --rows must be at least 1 .*, got 8 and 0"),
    (f"look DIGITS --key {10**20}", f"--key must be 0 to [0-9]+, got {10**20}"),
    ("look DIGITS --source ''", UNSET.format("--source")),
    ("look DIGITS mnist_svhn --source digits", "--source and --target need a single pair, got 2"),
    ("moons --key 4294967296", "--key must be 0 to [0-9]+, got 4294967296"),
    ("moons --key nan", "--key: expected a whole number, got 'nan'"),
    ("moons --output x.jpg", "x.jpg: expected a name that ends in .png or .svg, got '.jpg'"),
    ("moons --output FILE/x.png", "--output FILE: expected a folder, but FILE is a file"),
    ("benchmark --networks x", "--networks: expected one of mnist, .*, got 'x'"),
    (f"benchmark --keys {10**20}", f"numbers of 1 to 1000000 for --keys, .*, got .*{10**20}"),
    ("benchmark --steps-per-call 0", "numbers of 1 to 1000000 for --keys, --steps-per-call and"),
    (
        "benchmark --batch 3",
        "--batch must be even .half source, half target. and at most .*, got 3",
    ),
    ("benchmark --batch 100000000", "--batch must be even .* at most 1000000, got 100000000"),
    ("benchmark --seconds inf", "--seconds must be positive, got inf"),
    ("benchmark --minutes nan", "--minutes must be positive, got nan"),
    ("benchmark --cpus 99999", "--cpus: expected some of .*, got .99999.: choose others"),
    ("benchmark --everything --data-dir FILE", "--data-dir FILE: expected a folder, but FILE is a"),
    ("until --accuracy 80", "--accuracy must be a share of at most 1, got 80"),
    ("until --config nonsense", "unknown config 'nonsense': expected one of "),
    ("until --config mnist_mnist_m_compact", "got other values of optimizer, .*: name another"),
    ("arrays nonsense DIR", "unknown config 'nonsense': expected one of "),
    ("benchmark --output FILE", "FILE exists: choose another --output, or --overwrite it"),
    ("benchmark --output FILE/x.json", "--output FILE: expected a folder, but FILE is a file"),
]


@pytest.mark.parametrize(
    ("words", "sentence"),
    COMMANDS,
    ids=[f"{i} {words[:60]}" for i, (words, _) in enumerate(COMMANDS)],
)
def test_a_program_says_what_is_wrong_in_one_line(
    words, sentence, tmp_path, devices, monkeypatch, capsys
):
    (tmp_path / "file").write_text("a file")
    places = {"FILE": str(tmp_path / "file"), "RESULTS": str(RESULTS), "DIGITS": DIGITS}
    for place, path in places.items():
        words, sentence = words.replace(place, path), sentence.replace(place, path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DANN_JAX_DATA", str(tmp_path / "data"))
    program, *arguments = shlex.split(words)
    status = None
    try:
        status = MAINS[program](arguments)
    except SystemExit as stop:
        status = stop.code
    told = capsys.readouterr()
    assert status == 2
    line, *others = told.err.splitlines()
    assert others == []
    assert line.startswith("error: ")
    assert re.search(sentence, line), line
    written = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert written - {".lock"} == {"file"}


def test_the_table_is_long():
    assert len(ROWS) + len(COMMANDS) >= 120


def test_the_nearest_batches_split():
    for size in range(1, 40):
        for parts in range(1, 9):
            for near in multiples(size, parts).split(" or "):
                assert int(near) % parts == 0 < int(near)
                assert abs(int(near) - size) < parts or size < parts


@pytest.mark.parametrize("check", [checks.check_images, checks.count_examples])
def test_good_images_are_counted(check):
    assert check({"a": X, "b": Y}, "images") == 8
