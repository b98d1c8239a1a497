"""Trainings from arrays in memory to states, histories and accuracies.

``fit`` checks its inputs, starts the states and calls the programs of ``programs``. It has no loop
over updates of its own.

    fitted = fit(model, source=(x, y), target=target_x, steps=1000, key=jax.random.key(0))
    classes = predicted_classes(predict(model, fitted.state, new_x))
"""

import contextlib
import functools
import inspect
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from dann_jax import batches, checks, evaluation, health, programs, schedules, training
from dann_jax.captured import remembered
from dann_jax.networks import DannModel
from dann_jax.objective import SOURCE, TARGET, Objective, reversed_objective

__all__ = ["Diverged", "Fit", "Report", "fit"]

CALL = 100  # most steps of a call of a program, so that reports come often
RECENT = 100  # steps whose means are reported
MOST_STEPS = 2**31 - 1  # of an int32
SCORED = 500  # most examples of a domain that a selection rule sees

_LOG = logging.getLogger(__name__)


class Diverged(FloatingPointError):
    """No training has stayed finite.

    Attributes:
      step: The update, counted from 1, whose term was the first that is not finite.
      term: ``label_loss``, ``domain_loss``, ``parameters``, ``logits``, ... (see ``health``).
      history: As in ``Fit``, up to where it ended.
    """

    def __init__(self, step: int, term: str, history: dict[str, np.ndarray]):
        """Makes the sentence."""
        remedy = "lower the learning rate or lam, or scale the inputs to about -1 to 1"
        if step == 1 and term.endswith("_loss"):  # before any update
            remedy = "the first parameters already give it: look at what preprocess and G_f return"
        super().__init__(f"training diverged: {term} is not finite at step {step:,}; {remedy}")
        self.step, self.term, self.history = step, term, history


class Report(NamedTuple):
    """What is known of a training at a step. ``str`` makes a line of it."""

    key: int | None  # number of the training; None where there is one
    step: int  # updates done
    last: int  # step at which the training ends
    metrics: dict[str, float]  # means over the last steps, by the names of training.Metrics
    evaluation: dict[str, float]  # accuracies and score; empty between evaluations
    symptoms: list[str]  # sentences of health.symptoms; likewise

    def __str__(self) -> str:
        """Returns the step, the metrics, the evaluation and the symptoms in a line."""
        numbers = {name: f"{value:.3f}" for name, value in self.metrics.items()}
        numbers |= {name: f"{value:.4f}" for name, value in self.evaluation.items()}
        of_key = [] if self.key is None else [f"key {self.key}"]
        step = f"step {self.step:,}/{self.last:,}"
        said = [f"{name} {number}" for name, number in numbers.items()]
        return "  ".join([*of_key, step, *said, *self.symptoms])


class Fit(NamedTuple):
    """What ``fit`` returns; with ``keys`` of K trainings, all but steps have a first axis of K.

    Attributes:
      state: For ``predict``: that of ``step``.
      history: ``[steps]`` each: ``'step'``, the metrics of ``training.Metrics`` before the update
        and what the objective adds, by its name.
      evaluations: ``[evaluations]`` each: ``'step'``; with ``evaluate``, ``'source_accuracy'`` and
        ``'target_accuracy'``, those that are given; with ``rule``, its ``'score'``.
      step: Number of updates of ``state``: all of them, or those of the evaluation that the rule
        chooses.
      symptoms: Pairs of a step and a sentence of ``health.symptoms``; a list of each of ``keys``.
      diverged: None where the training stayed finite. With ``keys``, a list that has the step and
        the term of each that did not; a single one raises ``Diverged``.
    """

    state: training.TrainState
    history: dict[str, np.ndarray]
    evaluations: dict[str, np.ndarray]
    step: Any
    symptoms: list[Any]
    diverged: Any

    def of(self, i: int) -> "Fit":
        """Returns training i of several."""
        if not isinstance(self.diverged, list):
            raise ValueError("expected a fit of several keys, got one of a single key")
        history, evaluations = (
            {name: column if name == "step" else column[i] for name, column in each.items()}
            for each in (self.history, self.evaluations)
        )
        state = jax.tree.map(lambda a: a[i], self.state)
        step = int(self.step[i])
        return Fit(state, history, evaluations, step, self.symptoms[i], self.diverged[i])


def fit(
    model: DannModel,
    source: tuple[Any, Any],
    target: Any,
    *,
    steps: int,
    key: chex.PRNGKey | None = None,
    keys: chex.PRNGKey | None = None,
    batch: tuple[int, int] = (64, 64),
    optimizer: optax.GradientTransformation | None = None,
    lam: Callable[[chex.Array], chex.Array] | float | None = None,
    objective: Objective | None = None,
    preprocess: Any = None,
    evaluate: Any = None,
    every: int | None = None,
    rule: Callable[..., float] | None = None,
    state: training.TrainState | None = None,
    devices: Sequence[jax.Device] | None = None,
    report: Callable[[Report], Any] | bool | None = None,
) -> Fit:
    """Returns the state and the history of a training on labelled source and unlabelled target.

    Examples are arrays with a first axis of examples, or a pytree of such: images, windows of
    series, rows of a table, token ids. All inputs are checked before anything is compiled. What
    looks wrong while it trains (``health.symptoms``) goes to the log of this module, and to
    ``report``.

    Args:
      model: G_f, G_y and G_d.
      source: Examples ``[n, ...]`` and their labels ``[n]``, 0 to classes - 1, -1 where unknown. An
        objective of your own may take any numbers ``[n, ...]``.
      target: Examples ``[m, ...]``.
      steps: Number of updates.
      key: PRNG key of the initialization, the order of the data and the noise.
      keys: In place of ``key``, keys ``[K]`` of K trainings, which run as one program.
      batch: Examples a step in (source, target).
      optimizer: Any optax transformation; None for ``make_optimizer`` with ``mu_p``. With
        ``training.with_average``, evaluations and rules are of the last parameters: pass
        ``averaged(fit.state)`` to ``predict`` for the average.
      lam: lambda as a function of the number of updates done, or a constant; None for
        ``lambda_p``.
      objective: None for ``reversed_objective``. Its options, class weights and other methods come
        in here.
      preprocess: Function of a batch of examples as stored, the same as for ``predict``, that takes
        each example by itself; or a ``preprocessing.Preprocess``, which tells the domains apart.
        None for examples as they are.
      evaluate: Labelled examples ``(x, y)`` of the target to measure the accuracy on; or several
        such pairs by name, of which ``'source'`` is of the source and any other of the target.
      every: Steps between evaluations, the last step has one always; None for ten evaluations.
      rule: A rule of ``selection`` that scores the evaluations by the target's training examples
        (at most 500) without labels. ``state`` is then that of the largest score, or the last one
        where none is finite. Rules that take
        source examples score ``evaluate['source']``, which should not be trained on.
      state: What to start from (of a model with ImageNet weights, say); None for a new one of the
        key. Training goes on from its step.
      devices: Devices to train on; None for as many of this process as split the batches evenly.
      report: Function of a ``Report`` at each hundred steps and each evaluation; ``print``
        writes lines. True draws a progress bar. None for neither.

    Returns:
      A ``Fit``. Pass ``state``, or with ``keys`` the state of ``of(i)``, to ``predict``. A training
      of several that has diverged is named in ``diverged`` and has no accuracy from there on.

    Raises:
      TypeError: An input is of another kind.
      ValueError: Examples or labels do not fit each other, the model or the batch, are not finite,
        or there are none.
      Diverged: The training is not finite, or none of several is.
    """
    steps = checks.check_count(steps, "steps")
    many, keys = keys is not None, _keys(key, keys)
    source, labels = _pair(source, "source", classes=objective is None)
    data = _Data.checked(source, labels, target, batch, preprocess)
    if not isinstance(state, training.TrainState | None):
        hint = ": pass the state in it, .state" if hasattr(state, "state") else ""
        raise TypeError(f"state must be that of init_state, got {type(state).__name__}{hint}")
    first = 0 if state is None else int(np.max(np.asarray(state.step)))
    if first + steps > MOST_STEPS:
        raise ValueError(f"steps must be at most {MOST_STEPS - first:,}, got {steps:,}")
    optimizer = _paper_optimizer(first + steps) if optimizer is None else optimizer
    lam = _paper_lam(first + steps) if lam is None else lam
    _check_lam(lam, first, first + steps)
    objective = reversed_objective if objective is None else objective
    classes = data.check_model(model, optimizer, state, len(keys) if many else None)
    if objective is reversed_objective or np.issubdtype(labels.dtype, np.integer):
        checks.check_labels(labels, classes, name="source labels")
    if np.issubdtype(labels.dtype, np.integer) and (labels == -1).all():
        raise ValueError("expected labels of the source, got -1, not known, for all examples")
    looks = _Looks(model, data, classes, keys if many else None, (first, first + steps))
    looks.evaluate(evaluate, rule)
    looks.normalization = getattr(objective, "keywords", {}).get("normalization", "mean")

    devices = _devices(devices, len(keys), batch)
    start, train = _programs(
        model, optimizer, lam, objective, data.preprocess, data.sizes, devices, many
    )
    if state is None:
        state = start(keys if many else keys[0], data.sample)
    arrays = programs.replicate(data.arrays, list(devices))
    state = programs.replicate(state, list(devices[:1] if many else devices))
    train_keys = jax.vmap(batches.split_key)(keys)[1] if many else batches.split_key(keys[0])[1]
    every = math.ceil(steps / 10) if every is None else checks.check_count(every, "every")
    with _shown(report, steps) as show:
        for length, is_look in _calls(steps, every):
            state, metrics = train(state, arrays, train_keys, length)
            looks.read(show)  # the call before, while the device is busy with this one
            looks.pending = metrics
            if is_look:
                looks.look(state, show)
    return looks.result()


# --- inputs ------------------------------------------------------------------------------


def _keys(key, keys):
    """Returns the keys as ``[K]``."""
    if (key is None) == (keys is None):
        raise TypeError("pass key=jax.random.key(0), say, or keys= for several trainings")
    if keys is None:
        checks.check_key(key)
        return key[None]
    checks.check_key(keys, "keys", many=True)
    if not len(keys):
        raise ValueError("keys has no key: expected at least one")
    return keys


def _pair(pair, name, *, classes=True):
    """Returns examples and labels, in NumPy; labels of any shape for an objective of one's own."""
    if not (isinstance(pair, tuple | list) and len(pair) == 2):
        raise TypeError(
            f"{name} must be (x, y), examples and their labels, got {type(pair).__name__}"
        )
    x, y = _host(pair[0], f"{name} examples"), _host(pair[1], f"{name} labels")
    count = checks.check_images(x, f"{name} examples")
    if not classes and y.shape[:1] == (count,):
        checks.check_images(y, f"{name} labels")  # numbers, and finite
    elif y.shape != (count,):
        remedy = "pass as many"
        if y.ndim == 2:
            remedy = "pass y.argmax(1) of one-hot labels, or y.ravel()"
        elif isinstance(pair[0], list):
            remedy = "pass a list of examples as one array, np.asarray(list)"
        raise ValueError(
            f"expected {name} labels [{count}], one for each of {count} examples, got "
            f"{list(y.shape)}: {remedy}"
        )
    return x, y


def _host(examples, name):
    checks.check_kinds(examples, name)
    return jax.tree.map(np.asarray, examples)


def _check_lam(lam, first, last):
    """Raises unless lambda is a number at the first, the middle and the last step."""
    if not callable(lam):
        return  # the update checks a number
    steps = {first, (first + last) // 2, last - 1}
    try:
        jax.eval_shape(lam, jnp.int32(first))
        values = {step: lam(jnp.int32(step)) for step in sorted(steps)}
    except Exception as error:
        raise TypeError(
            f"lam must be a function of the step that JAX can trace ({type(error).__name__}: "
            f"{str(error).splitlines()[0]:.80}): use jnp.where in place of if, or pass a number"
        ) from error
    for step, value in values.items():
        checks.check_number(value, f"lam of step {step}", remedy="return a number")


class _Data(NamedTuple):
    """Checked arrays of both domains, and how a program takes them."""

    arrays: batches.DomainArrays
    sizes: tuple[tuple[int, int], tuple[int, int]]  # examples and batch of (source, target)
    views: tuple[Callable, Callable]  # preprocessing of (source, target)
    preprocess: Callable  # of a batch

    @classmethod
    def checked(cls, x, y, target, batch, preprocess):
        if isinstance(target, tuple | list) and not isinstance(x, tuple | list):
            raise TypeError(
                f"target must be examples like those of the source, got a {type(target).__name__}: "
                "pass x alone, without labels, as one array"
            )
        target = _host(target, "target examples")
        examples = checks.count_examples(x), checks.check_images(target, "target examples")
        checks.check_pair(batch, "batch")
        for name, count, share in zip(("source", "target"), examples, batch, strict=True):
            if checks.check_count(share, f"batch of the {name}") > count:
                raise ValueError(
                    f"the {name} has {count} examples, fewer than its batch of {share}: pass "
                    f"batch={tuple(map(min, batch, examples))}, or smaller ones"
                )
        data = cls(
            batches.DomainArrays(x, y, target),
            (examples, tuple(batch)),
            *_views(preprocess),
        )
        if preprocess is None:
            for name, each in (("source", x), ("target", target)):
                checks.check_scaled(each, f"{name} examples")
        seen = [data.view(each, i) for i, each in enumerate((x, target))]
        shown = [_kinds(each) for each in seen]
        if jax.tree.structure(seen[0]) != jax.tree.structure(seen[1]) or shown[0] != shown[1]:
            if shown[0] == shown[1]:  # the same arrays, in another tree
                shown = [str(jax.tree.structure(each)) for each in seen]
            raise ValueError(
                f"expected examples of one shape and type in both domains, got {shown[0]} of the "
                f"source and {shown[1]} of the target: preprocess both alike"
            )
        data._check_crop(seen[0])
        if preprocess is not None:
            for i, each in enumerate((x, target)):
                data._check_alone(each, i)
        return data

    def _check_crop(self, seen):
        """Raises where examples that are trained on have another shape than those evaluated."""
        few = batches.DomainBatch(self.sample, None, self.sample)
        trained = jax.eval_shape(self.preprocess, few).source_image
        if _kinds(trained) != _kinds(seen):
            raise ValueError(
                f"preprocess gives {_kinds(trained)} in training and {_kinds(seen)} in an "
                "evaluation: crop the images before, and pass their size as crop"
            )

    def _check_alone(self, examples, domain):
        """Raises where an example is seen otherwise beside another one than alone."""
        two, one = (
            self.views[domain](jax.tree.map(lambda a, n=n: jnp.asarray(a[:n]), examples))
            for n in (2, 1)
        )
        for beside, alone in zip(jax.tree.leaves(two), jax.tree.leaves(one), strict=True):
            beside, alone = (np.asarray(a, np.float64)[:1] for a in (beside, alone))
            apart = np.abs(beside - alone).max(initial=0)
            if apart > 1e-3 * max(1, np.abs(alone).max(initial=0)):
                raise ValueError(
                    "preprocess must treat each example by itself, got another result for one "
                    f"beside a second than alone (by {apart:.3g}): take means and scales of the "
                    "whole training set before, not of a batch"
                )

    @property
    def sample(self):
        """Two source examples, or one, as stored."""
        return jax.tree.map(lambda a: a[:2], self.arrays.source_image)

    def view(self, examples, domain):
        """Returns the shapes of two examples of a domain after preprocessing."""
        few = jax.tree.map(
            lambda a: jax.ShapeDtypeStruct(
                (2, *a.shape[1:]), jax.dtypes.canonicalize_dtype(a.dtype)
            ),
            examples,
        )
        try:
            seen = jax.eval_shape(self.views[domain], few)
        except (AttributeError, jax.errors.JAXTypeError) as error:
            why = str(error).splitlines()[0]
            raise TypeError(
                f"preprocess must take a batch of examples, as stored, and JAX must be able to "
                f"trace it ({why:.120}): use jnp in it; it is the function that predict takes too"
            ) from error
        if checks.count_examples(seen, "preprocessed examples") != 2:
            raise ValueError(
                f"preprocess must keep the first axis, that of the examples, got {_kinds(seen)} of "
                f"2 examples {_kinds(few)}"
            )
        return seen

    def check_model(self, model, optimizer, given, count):
        """Returns the number of classes, None where G_y returns something else than logits.

        Raises where a state is given that is not one, or with ``count`` not that many, of these.
        """
        sample = self.view(self.arrays.source_image, SOURCE)
        for path, (shape, _) in _leaves(sample):
            if 0 in shape:
                raise ValueError(
                    f"expected examples with a number or more, got {list(shape[1:])} at x{path}"
                )
        try:
            state = jax.eval_shape(
                lambda x: training.init_state(model, optimizer, jax.random.key(0), x), sample
            )
        except ValueError as error:
            if any(len(shape) == 1 for _, (shape, _) in _leaves(sample)):
                raise ValueError(
                    f"{error}; where an example is a single number, pass x[:, None]"
                ) from error
            raise
        if given is not None:
            axes = () if count is None else (count,)
            wanted = {path: (axes + shape, dtype) for path, (shape, dtype) in _leaves(state)}
            _check_same(wanted, dict(_leaves(given)))

        def logits(state, x):
            taken = state.theta, state.batch_stats, x
            return evaluation.label_logits(model, *taken, domain=TARGET)

        shape = getattr(jax.eval_shape(logits, state, sample), "shape", ())
        return shape[1] if len(shape) == 2 and shape[1] > 1 else None


def _leaves(tree):
    """Yields the path, and the shape and type, of each array."""
    for path, a in jax.tree_util.tree_leaves_with_path(tree):
        yield jax.tree_util.keystr(path), (a.shape, str(a.dtype))


def _check_same(wanted, got):
    """Raises unless a state's arrays are those of a training."""
    for path in wanted | got:
        if wanted.get(path) != got.get(path):
            raise ValueError(
                "expected the state of a training with this model, optimizer and number of keys, "
                f"got {got.get(path, 'nothing')} for {wanted.get(path, 'nothing')} at state{path}: "
                "pass those that it was made with, or no state"
            )


def _kinds(examples):
    """Returns the shapes of an example in words."""
    kinds = [f"{a.dtype}{list(a.shape[1:])}" for a in jax.tree.leaves(examples)]
    return ", ".join(kinds)


def _views(preprocess):
    """Returns what is done to examples of (source, target), and to a batch of both."""
    if all(callable(getattr(preprocess, name, None)) for name in ("source", "target", "batch")):
        return (preprocess.source, preprocess.target), preprocess.batch
    if preprocess is None:
        return (_as_it_is, _as_it_is), _as_it_is
    if not callable(preprocess):
        raise TypeError(f"preprocess must be a function of examples, got {preprocess!r:.40}")
    return (preprocess, preprocess), _of_batch(preprocess)


def _as_it_is(x):
    return x


@functools.lru_cache(maxsize=64)
def _of_batch(preprocess):
    def of_batch(batch):
        return batch._replace(
            source_image=preprocess(batch.source_image),
            target_image=preprocess(batch.target_image),
        )

    return of_batch


# --- programs ----------------------------------------------------------------------------


@functools.lru_cache(maxsize=64)
def _paper_optimizer(steps):
    return training.make_optimizer(lambda step: schedules.mu_p(schedules.progress(step, steps)))


@functools.lru_cache(maxsize=64)
def _paper_lam(steps):
    return lambda step: schedules.lambda_p(schedules.progress(step, steps))


def _devices(devices, trainings, batch):
    """Returns the devices to train on."""
    if devices is not None:
        if not all(isinstance(each, jax.Device) for each in devices) or not len(devices):
            raise TypeError(f"devices must be some of jax.local_devices(), got {devices!r:.60}")
        return tuple(devices)

    def fits(count):
        sharing = count // trainings
        return not trainings % count or (
            not count % trainings and not any(n % sharing for n in batch)
        )

    local = jax.local_devices()
    return tuple(local[: max(filter(fits, range(1, len(local) + 1)))])


@remembered(8)  # a second training with another key compiles nothing
def _programs(model, optimizer, lam, objective, preprocess, sizes, devices, many):
    """Returns the programs that start states and that train."""

    def start(key, source):
        batch = preprocess(batches.DomainBatch(source, None, source))
        key, _ = batches.split_key(key)
        return training.init_state(model, optimizer, key, batch.source_image)

    make_update = functools.partial(
        training.make_update_step, model, optimizer, lam, objective=objective
    )
    examples, batch = sizes
    options = {
        "examples": examples,
        "batch": batch,
        "preprocess": preprocess,
        "devices": list(devices),
    }
    if not many:
        return jax.jit(start), programs.make_train_steps(make_update, **options)
    study = programs.make_study_steps(
        lambda settings, axis_name: make_update(axis_name=axis_name), **options
    )
    return jax.jit(jax.vmap(start, in_axes=(0, None))), study


def _calls(steps, every):
    """Yields the lengths of calls, and whether the state is looked at after each."""
    for done in range(0, steps, every):
        stretch = min(every, steps - done)
        parts = math.ceil(stretch / CALL)
        for i in range(parts):
            yield stretch * (i + 1) // parts - stretch * i // parts, i + 1 == parts


# --- what is seen of a training ----------------------------------------------------------


@contextlib.contextmanager
def _shown(report, steps) -> Iterator[Callable[[Report], Any]]:
    """Returns what takes the reports."""
    if callable(report):
        yield report
    elif not report:
        yield lambda each: None
    else:
        try:
            from rich.progress import Progress
        except ImportError as error:
            raise ImportError(
                "report=True draws its bar with rich: pip install rich, or pass report=print"
            ) from error
        with Progress(transient=True) as bar:
            task = bar.add_task("", total=steps)

            def show(each):
                done = each.step - each.last + steps
                losses = [f"{n} {each.metrics[n]:.3f}" for n in _LOSSES if n in each.metrics]
                bar.update(task, completed=done, description="  ".join(losses))

            yield show


_LOSSES = "label_loss", "domain_loss"


class _Looks:
    """Reads the metrics of trainings, and evaluates their states from time to time."""

    def __init__(self, model, data, classes, keys, span):
        self.model, self.data, self.classes = model, data, classes
        self.many, self.count = keys is not None, 1 if keys is None else len(keys)
        self.done, self.last = span
        self.first, self.normalization = self.done, "mean"
        self.pending: Any = None  # metrics of a call that were not read
        self.parts: list[dict[str, np.ndarray]] = []
        self.sets: dict[str, tuple[Any, np.ndarray, int]] = {}
        self.rule: Callable[..., float] | None = None
        self.steps: list[int] = []  # of evaluations
        self.measured: list[list[dict[str, float]]] = []  # by evaluation and training
        self.symptoms: list[list[tuple[int, str]]] = [[] for _ in range(self.count)]
        self.diverged: list[tuple[int, str] | None] = [None] * self.count
        self.kept: list[tuple[float, int, Any]] = [(-math.inf, 0, None)] * self.count

    def evaluate(self, sets, rule):
        """Checks and keeps what is measured."""
        named = sets if isinstance(sets, Mapping) else {"target": sets}
        for name, pair in {} if sets is None else named.items():
            x, y = _pair(pair, f"evaluate {name!r}")
            domain = SOURCE if name == "source" else TARGET
            shapes = [_kinds(self.data.view(each, domain)) for each in (x, self._stored(domain))]
            if shapes[0] != shapes[1]:
                raise ValueError(
                    f"expected examples to evaluate of shape {shapes[1]}, as in training, got "
                    f"{shapes[0]} in {name!r}"
                )
            checks.check_labels(y, self.classes, name=f"evaluate {name!r} labels")
            if (y == -1).all():
                raise ValueError(
                    f"expected labels to measure an accuracy on in evaluate {name!r}, got -1, not "
                    "known, for all examples"
                )
            self.sets[name] = x, y, domain
        if rule is None:
            return
        if not callable(rule):
            raise TypeError(
                f"rule must be a function such as selection.entropy, got {rule!r:.40}: those of "
                "selection.RULES have names"
            )
        taken = inspect.signature(rule).parameters
        if any(name.startswith("source") for name in taken) and "source" not in self.sets:
            raise ValueError(
                "the rule takes labelled source examples that are not trained on: pass "
                "evaluate={'source': (x, y)}"
            )
        self.rule = rule

    def _stored(self, domain):
        return self.data.arrays.source_image if domain == SOURCE else self.data.arrays.target_image

    def read(self, show, evaluated=None):
        """Reads the metrics of the last call, and reports them."""
        if self.pending is None:
            return
        metrics = jax.device_get(self.pending)
        columns = metrics._asdict() | metrics.penalties
        del columns["penalties"]
        columns = {
            name: np.reshape(column, (self.count, -1))
            for name, column in columns.items()
            if column is not training.ABSENT
        }
        self.pending = None
        self.parts.append(columns)
        for i in range(self.count):
            of_one = {name: column[i] for name, column in columns.items()}
            if self.diverged[i] is None and (place := health.first_not_finite(of_one)):
                self._diverge(i, self.done + 1 + place[0], place[1])
        self.done += len(columns["lam"][0])
        self._check_any()
        if evaluated is None:
            for i in self._finite():
                show(self._report(i, {}, []))

    def look(self, state, show):
        """Evaluates a state, whose call is the last one, and reports it."""
        self.read(show, evaluated=True)
        states = jax.device_get(state)
        measured: list[dict[str, float]] = [{} for _ in range(self.count)]
        for i in self._finite():
            of_one = jax.tree.map(lambda a, i=i: a[i], states) if self.many else states
            term = health.part_not_finite(of_one)
            if term is not None:
                self._diverge(i, self.done, term)
                continue
            on_device = jax.device_put(of_one, may_alias=False)
            values = self._measure(on_device)
            if values is None:
                self._diverge(i, self.done, "logits")
                continue
            measured[i] = values
            said = self._symptoms(i)
            self.symptoms[i] += [(self.done, text) for text in said]
            for text in said:
                of_key = f"key {i}, " if self.many else ""
                _LOG.warning("%sstep %s: %s", of_key, f"{self.done:,}", text)
            score = values.get("score", math.inf if self.rule is None else math.nan)
            if self.rule is not None and not math.isfinite(score):
                score = -math.inf  # as in selection.choose: it is none
            if self.rule is None or score > self.kept[i][0] or self.kept[i][0] == -math.inf:
                self.kept[i] = score, self.done, of_one
            show(self._report(i, values, said))
        self.steps.append(self.done)
        self.measured.append(measured)
        self._check_any()

    def _measure(self, state):
        """Returns accuracies and the score of a state; None where a logit is not finite."""
        values = {}
        for name, (x, y, domain) in self.sets.items():
            logits = self._output(evaluation.predict, state, x, domain)
            if not np.isfinite(logits).all():
                return None
            values[f"{name}_accuracy"] = evaluation.evaluate(logits, y)
        if self.rule is not None:
            outputs = self._outputs(state)
            if not all(np.isfinite(x).all() for x in outputs if x is not None):
                return None
            from dann_jax import selection  # SciPy takes a while to import

            values["score"] = selection.score(self.rule, outputs, key=jax.random.key(0))
        return values

    def _output(self, function, state, x, domain, **options):
        options |= {"preprocess": self.data.views[domain], "domain": domain}
        return function(self.model, state, x, **options)

    def _outputs(self, state):
        """Returns what the rule takes, of the same examples each time."""
        from dann_jax import selection

        sets = {"target": (self.data.arrays.target_image, None, TARGET)}
        sets |= {"source": self.sets["source"]} if "source" in self.sets else {}
        values: dict[str, Any] = dict.fromkeys(selection.Outputs._fields)
        layer = evaluation.last_hidden_layer(self.model)
        for name, (x, y, domain) in sets.items():
            order = np.random.default_rng(0).permutation(checks.count_examples(x))[:SCORED]
            x = jax.tree.map(lambda a, order=order: a[order], x)
            values[f"{name}_features"] = self._output(
                evaluation.features, state, x, domain, layer=layer
            )
            values[f"{name}_logits"] = self._output(evaluation.predict, state, x, domain)
            if y is not None:
                values[f"{name}_labels"] = y[order]
        return selection.Outputs(**values)

    def _recent(self, i):
        """Returns the mean metrics of the last steps."""
        columns = {n: np.concatenate([p[n][i] for p in self.parts[-2:]]) for n in self.parts[-1]}
        return {name: float(column[-RECENT:].mean()) for name, column in columns.items()}

    def _symptoms(self, i):
        metrics = self._recent(i)
        if self.classes is None or not {"label_loss", "feature_norm"} <= metrics.keys():
            return []
        absent = {"domain_loss": math.nan, "domain_accuracy": math.nan}
        return health.symptoms(
            absent | metrics, classes=self.classes, normalization=self.normalization
        )

    def _report(self, i, values, said):
        return Report(i if self.many else None, self.done, self.last, self._recent(i), values, said)

    def _finite(self):
        return [i for i in range(self.count) if self.diverged[i] is None]

    def _diverge(self, i, step, term):
        self.diverged[i] = step, term
        if self.many:  # one alone raises
            _LOG.warning("key %d diverged: %s is not finite at step %s", i, term, f"{step:,}")

    def _check_any(self):
        """Raises where no training is finite."""
        if not self._finite():
            step, term = max(place for place in self.diverged if place is not None)
            raise Diverged(step, term, self._history())

    def _history(self):
        columns = {name: np.concatenate([p[name] for p in self.parts], 1) for name in self.parts[0]}
        steps = np.arange(self.first + 1, self.done + 1)
        return {"step": steps} | {n: c if self.many else c[0] for n, c in columns.items()}

    def result(self):
        """Returns the fit, after the last look."""
        if self.rule is not None and any(self.kept[i][0] == -math.inf for i in self._finite()):
            _LOG.warning("the rule gave no finite score at any evaluation: the last state is kept")
        names = dict.fromkeys(name for row in self.measured for one in row for name in one)
        evaluations = {"step": np.array(self.steps)}
        for name in names:
            rows = [[one.get(name, np.nan) for one in row] for row in self.measured]
            column = np.array(rows, np.float64).T
            evaluations[name] = column if self.many else column[0]
        states = [self._kept(i) for i in range(self.count)]
        steps = [d[0] if d else kept[1] for d, kept in zip(self.diverged, self.kept, strict=True)]
        if not self.many:
            state, step, symptoms, diverged = states[0], steps[0], self.symptoms[0], None
        else:
            state = jax.tree.map(lambda *leaves: np.stack(leaves), *states)
            step, symptoms, diverged = np.array(steps), self.symptoms, self.diverged
        state = jax.device_put(state, may_alias=False)
        return Fit(state, self._history(), evaluations, step, symptoms, diverged)

    def _kept(self, i):
        """Returns the state of a training to keep; one that has diverged has no numbers."""
        if self.diverged[i] is None:
            return self.kept[i][2]
        like = next(state for _, _, state in self.kept if state is not None)
        return jax.tree.map(
            lambda a: np.full_like(a, np.nan) if jnp.issubdtype(a.dtype, jnp.inexact) else a, like
        )
