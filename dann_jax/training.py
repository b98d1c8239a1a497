"""The update of Eqs. (4)-(6) as one pure per-device function, and the state that it changes.

``make_update_step`` gives the function. Wrap it in ``jax.jit``, ``jax.pmap`` or ``jax.vmap``, or
let ``programs`` run it many times a call.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from dann_jax import batches, networks
from dann_jax.checks import check_images, check_key, check_number, check_weights, count_examples
from dann_jax.objective import (
    SOURCE,
    Apply,
    Objective,
    Terms,
    check_domain,
    reversed_objective,
    weighted_mean,
)

__all__ = [
    "ABSENT",
    "Metrics",
    "TrainState",
    "averaged",
    "init_state",
    "make_optimizer",
    "make_update_step",
    "with_average",
]


@flax.struct.dataclass
class TrainState:
    """All that an update changes. It holds no PRNG key: randomness is a function of the step."""

    step: chex.Array  # [] int32, number of updates done
    theta: dict[str, Any]  # parameters 'f', 'y' and 'd' of G_f, G_y and G_d
    batch_stats: dict[str, Any]  # running averages of batch norm, under the same keys
    opt_state: Any  # of the optax transformation


class _Absent(float):
    """A metric that an objective does not have: NaN for who reads it, no array for a program.

    It is an empty pytree, so that it is a static property of the objective: programs return it as
    it is, and ``jax.debug_nans`` does not take it for a number that went wrong.
    """


ABSENT = _Absent("nan")
jax.tree_util.register_pytree_node(_Absent, lambda _: ((), None), lambda *_: ABSENT)


class Metrics(NamedTuple):
    """Measures of a batch at the parameters before its update.

    What an objective does not have (a domain branch, classes) is absent: ``ABSENT``, which reads
    as NaN and is no array. An accuracy is NaN where a logit is not finite.
    """

    label_loss: chex.Array  # [] L_y, nats
    label_accuracy: chex.Array  # [] share of the batch's labelled examples
    domain_loss: chex.Array  # [] L_d, nats, without its weight
    domain_accuracy: chex.Array  # [] share of the batch's source and target examples
    feature_norm: chex.Array  # [] mean Euclidean norm of the features of one example
    lam: chex.Array  # [] lambda
    penalties: dict[str, chex.Array] = {}  # [] each, what else the objective adds, unweighted


def make_optimizer(
    mu: Callable[[chex.Array], chex.Array] | float,
    *,
    momentum: float = 0.9,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    factors: Callable[[tuple[str, ...]], float] | None = None,
    descent: Callable[[Any], optax.GradientTransformation] | None = None,
) -> optax.GradientTransformation:
    """Returns the optimizer of the paper: SGD with momentum 0.9 and the learning rate mu.

    Args:
      mu: Learning rate as a function of the number of updates done, or a constant.
      momentum: Share of the last step that the next one adds.
      nesterov: Whether to use Nesterov's momentum.
      weight_decay: Multiple of the weights (see ``networks.is_weight``: no biases, no scales)
        added to the gradient.
      factors: Multiple of mu for a parameter, given its path as names from the part down, for
        example ``('f', 'conv1', 'bias')``: new layers x10, biases x2. None: 1 for each.
      descent: Takes mu and returns what makes the steps in place of SGD, which momentum and
        nesterov are of: ``functools.partial(optax.adam, b1=0.5)``, say.

    Returns:
      An optax transformation over ``{'f', 'y', 'd'}``.

    Raises:
      TypeError: A rate is no number, or ``factors`` or ``descent`` no function.
      ValueError: A rate is negative or not finite, or the momentum not below 1.

    Source: Ganin & Lempitsky (2015), Sec. 4.1.
    """
    if not callable(mu):
        check_number(mu, "mu", remedy="pass a number, or a function of the step")
    check_number(momentum, "momentum", below=1)
    check_number(weight_decay, "weight_decay")
    if factors is not None and not callable(factors):
        raise TypeError(
            f"factors must be a function of a parameter's path, got {factors!r:.40}: pass "
            'lambda path: 10.0 if path[-1] == "bias" else 1.0, say'
        )

    if descent is not None and not callable(descent):
        raise TypeError(
            f"descent must be a function of mu, got {descent!r:.40}: pass optax.adam, say"
        )

    def is_weight(theta):
        return jax.tree_util.tree_map_with_path(networks.is_weight, theta)

    steps = []
    if weight_decay:
        steps.append(optax.add_decayed_weights(weight_decay, mask=is_weight))
    sgd = functools.partial(optax.sgd, momentum=momentum, nesterov=nesterov)
    steps.append((descent or sgd)(mu))
    if factors is not None:
        steps.append(_scale_by_factors(factors))
    return optax.chain(*steps)


@flax.struct.dataclass
class AverageState:
    """State of ``with_average``: the average over the parameters before the last update."""

    average: Any  # pytree like theta
    inner: Any
    count: chex.Array  # [] int32, updates made; before the first, theta may be set to anything
    decay: float = flax.struct.field(pytree_node=False)


def with_average(
    optimizer: optax.GradientTransformation, decay: float
) -> optax.GradientTransformation:
    """Returns an optimizer that also keeps an exponential moving average of the parameters.

    ``a <- decay a + (1 - decay) theta`` after each update, from ``a = theta`` at the start. The
    updates do not depend on it; ``averaged`` gives the state to evaluate.

    Args:
      optimizer: What makes the updates.
      decay: Share of the average that each update keeps, in [0, 1).

    Raises:
      TypeError: The decay is no number.
      ValueError: The decay is another number.

    Source: Polyak and Juditsky (1992); as a teacher: Tarvainen and Valpola (2017).
    """
    check_number(decay, "decay", below=1, remedy="0.999 is usual")

    def init(theta):
        average = jax.tree.map(jnp.copy, theta)
        return AverageState(average, optimizer.init(theta), jnp.int32(0), float(decay))

    def update(updates, state, params=None):
        updates, inner = optimizer.update(updates, state.inner, params)
        average = _averaged(params, state)
        return updates, AverageState(average, inner, state.count + 1, state.decay)

    return optax.GradientTransformation(init, update)


def _averaged(theta, state):
    """Returns the average with theta in it; one theta before the first update."""

    def start(average, theta):
        axes = (1,) * (average.ndim - state.count.ndim)  # states of many keys are stacked
        return jnp.where(jnp.reshape(state.count, state.count.shape + axes) == 0, theta, average)

    average = jax.tree.map(start, state.average, theta)
    return optax.incremental_update(theta, average, 1 - state.decay)


def averaged(state: TrainState) -> TrainState:
    """Returns the state with its averaged parameters in place of the last ones.

    Args:
      state: Of a training by an optimizer from ``with_average``.

    Raises:
      ValueError: The optimizer keeps no average.
    """
    states = jax.tree.leaves(state.opt_state, is_leaf=lambda s: isinstance(s, AverageState))
    kept = next((s for s in states if isinstance(s, AverageState)), None)
    if kept is None:
        raise ValueError(
            "the optimizer keeps no average of the parameters: make it with with_average"
        )
    return dataclasses.replace(state, theta=_averaged(state.theta, kept))


def _scale_by_factors(factors):
    def update(updates, state, params=None):
        del params

        def scaled(path, step):
            return factors(networks.parameter_names(path)) * step

        return jax.tree_util.tree_map_with_path(scaled, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def init_state(
    model: networks.DannModel,
    optimizer: optax.GradientTransformation,
    key: chex.PRNGKey,
    image: chex.Array,
) -> TrainState:
    """Returns the state before the first update.

    Args:
      model: G_f, G_y and G_d.
      optimizer: The optimizer whose state to start.
      key: PRNG key of the initialization; each part has its own key derived from it.
      image: An example batch ``[n, height, width, channel]`` as G_f gets it (values unused), or
        a pytree of several inputs.

    Returns:
      The state, step 0.

    Raises:
      TypeError: An argument is of another kind, or parameters are not floating-point.
      ValueError: G_f does not return features of each example.
    """
    _check_kinds(model, optimizer)
    check_key(key)
    check_images(image, "image", empty=True)
    theta, batch_stats = {}, {}
    outputs: dict[str, Any] = {}
    for i, (name, part) in enumerate(model.parts.items()):
        x = model.inputs(name, image, outputs)
        theta[name], batch_stats[name] = part.init(jax.random.fold_in(key, i), x)
        _check_parameters(theta[name], name)
        outputs[name] = _zeros_like_output(part, theta[name], batch_stats[name], x, key)
        if name == "f" and count_examples(outputs["f"], "features") != count_examples(image):
            shapes = ", ".join(str(list(a.shape)) for a in jax.tree.leaves(outputs["f"]))
            raise ValueError(
                f"G_f must return features [n, ...] of all n={count_examples(image)} examples, got "
                f"{shapes}"
            )
    return TrainState(
        step=jnp.zeros([], jnp.int32),
        theta=theta,
        batch_stats=batch_stats,
        opt_state=optimizer.init(theta),
    )


def _zeros_like_output(part, *arguments):
    """Returns zeros in the shape of the output of a part."""

    def output(theta, batch_stats, x, key):
        return part.apply(theta, batch_stats, x, key=key, domain=SOURCE)[0]

    shapes = jax.eval_shape(output, *arguments)
    return jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)


def _check_kinds(model, optimizer):
    """Raises unless they are a model and an optimizer."""
    if not isinstance(model, networks.DannModel):
        raise TypeError(f"model must be a DannModel, got {type(model).__name__}")
    if not isinstance(optimizer, optax.GradientTransformation):
        raise TypeError(
            f"optimizer must be an optax transformation, got {type(optimizer).__name__}: pass "
            "make_optimizer(0.01) or optax.adam(1e-3), say"
        )


def _check_parameters(theta, name):
    """Raises unless all parameters of a part are floating-point."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(theta):
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise TypeError(
                f"theta{jax.tree_util.keystr(path)} of G_{name} is {jnp.result_type(leaf)}: "
                "expected parameters, which are floating-point, so keep what is not trained out "
                "of theta"
            )


def make_update_step(
    model: networks.DannModel,
    optimizer: optax.GradientTransformation,
    lam: Callable[[chex.Array], chex.Array] | float,
    *,
    objective: Objective = reversed_objective,
    axis_name: str | None = None,
) -> Callable[[TrainState, batches.DomainBatch, chex.PRNGKey], tuple[TrainState, Metrics]]:
    """Returns ``update(state, batch, key) -> (state, metrics)``, Eqs. (4)-(6) in one step.

    The update is pure and not compiled: wrap it in ``jax.jit``, or in ``jax.pmap`` with
    ``axis_name`` and ``in_axes=(None, 0, None), out_axes=None``. lambda, and the optimizer's
    mu, are computed from ``state.step`` inside, so that they change without a retrace.
    Dropout masks are a function of (key, step) and, with an axis name, of the device.

    The objective calls each part on the joint batch, or on examples of one domain with
    ``domain=SOURCE`` or ``domain=TARGET``: then batch statistics of each domain are those of that
    one alone. Several calls of a part go on from each other's running averages, and have dropout
    masks of their own.

    The objective checks the labels, and their values too where the batch is not traced. Where you
    compile the update by yourself, call ``checks.check_labels`` on your data set first; the
    programs do so.

    Args:
      model: G_f, G_y and G_d.
      optimizer: From ``make_optimizer``, or any optax transformation over theta.
      lam: lambda as a function of the number of updates done (not of p: see
        ``schedules.progress``), or a constant.
      objective: ``reversed_objective`` (DANN; ``functools.partial`` sets its normalization and
        weight), ``label_objective`` (the baselines), or a function like them.
      axis_name: Mapped axis of the devices; their gradients are averaged. None for one device.

    Returns:
      The update.

    Raises:
      TypeError: An argument is of another kind; or, from the update, the objective returns no
        value and ``Terms``.
      ValueError: lambda is a negative constant or not finite; or, from the update when it is
        traced, the objective names an unknown domain, or
        none for fewer examples than the joint batch has and a part that declares ``domain``; or
        the domains have different sizes in a joint batch for such a part, or ``axis_name`` is not
        that of a mapped axis.

    Source: Ganin & Lempitsky (2015), Eqs. (4)-(6) and (9).
    """
    _check_kinds(model, optimizer)
    if not callable(lam):
        check_number(lam, "lam", remedy="pass a number, or a function of the step")
    if not callable(objective):
        raise TypeError(
            f"objective must be a function such as reversed_objective, got {objective!r:.40}"
        )
    declared = inspect.signature(objective).parameters

    def update(state, batch, key):
        _check_state(state)
        check_key(key)
        lam_t = lam(state.step) if callable(lam) else jnp.float32(lam)
        key = jax.random.fold_in(key, state.step)
        if axis_name is not None:
            key = jax.random.fold_in(key, _axis_index(axis_name))

        beside = {  # what an objective may declare
            "key": lambda: jax.random.fold_in(key, len(model.parts)),
            "average": lambda: averaged(state).theta,
        }

        def loss(theta):
            calls = {
                name: _Calls(
                    part,
                    name,
                    batch=batch,
                    batch_stats=state.batch_stats[name],
                    key=jax.random.fold_in(key, i),
                    axis_name=axis_name,
                )
                for i, (name, part) in enumerate(model.parts.items())
            }
            options = {name: value() for name, value in beside.items() if name in declared}
            apply = Apply(*calls.values())
            value, terms = _value_and_terms(
                objective(theta, batch, lam_t, apply, axis_name=axis_name, **options)
            )
            return value, (terms, {name: of_part.batch_stats for name, of_part in calls.items()})

        theta = state.theta if axis_name is None else _varying(state.theta, axis_name)
        dE, (terms, batch_stats) = jax.grad(loss, has_aux=True)(theta)
        metrics = _metrics(terms, lam_t, axis_name)
        if axis_name is not None:
            dE = jax.lax.pmean(dE, axis_name)
            batch_stats, metrics = jax.lax.pmean((batch_stats, metrics), axis_name)
        directions = {  # with the objective of Eq. (9)
            "f": dE["f"],  # Eq. (4): dL_y/dtheta_f - lam dL_d/dtheta_f
            "y": dE["y"],  # Eq. (5): dL_y/dtheta_y
            "d": dE["d"],  # Eq. (6): dL_d/dtheta_d
        }
        steps, opt_state = optimizer.update(directions, state.opt_state, state.theta)
        theta = optax.apply_updates(state.theta, steps)  # theta - mu * direction
        if model.max_norm is not None:
            theta = theta | {
                part: networks.project_max_norm(theta[part], model.max_norm) for part in "fy"
            }
        return TrainState(state.step + 1, theta, batch_stats, opt_state), metrics

    return update


def _check_state(state):
    if not isinstance(state, TrainState):
        raise TypeError(
            f"state must be a TrainState, got {type(state).__name__}: pass that of init_state, or "
            "the first of the two that an update returns"
        )


def _axis_index(axis_name):
    try:
        return jax.lax.axis_index(axis_name)
    except NameError:
        raise ValueError(
            f"axis_name {axis_name!r} is not that of a mapped axis: run the update under "
            f"jax.pmap(update, axis_name={axis_name!r}, ...), or leave axis_name out on one device"
        ) from None


def _value_and_terms(returned):
    """Returns what an objective has returned; raises unless it is a value and its terms."""
    is_pair = isinstance(returned, tuple) and len(returned) == 2
    if not is_pair or not all(hasattr(returned[1], name) for name in Terms._fields):
        kinds = [type(each).__name__ for each in (returned if is_pair else [returned])]
        raise TypeError(
            f"the objective must return its value and Terms, got {' and '.join(kinds)}: return "
            "value, Terms(...) with None for what it does not have"
        )
    value = returned[0]
    if jnp.shape(value) != () or not jnp.issubdtype(jnp.result_type(value), jnp.floating):
        raise TypeError(
            "the value of the objective must be a floating-point scalar, got "
            f"{jnp.result_type(value)}{list(jnp.shape(value))}: take the mean over the examples"
        )
    return returned


class _Calls:
    """The calls of a part in one update, by an objective: ``(theta, x, *, ...) -> output``.

    Each call starts from the batch statistics that the one before it left. The first one has the
    dropout key of the part, each further one a key of its own. One ``aside`` has the first one's
    key, leaves the statistics as they are and does not count.
    """

    def __init__(self, part, name, *, batch, batch_stats, key, axis_name):
        self._part, self._name, self._batch = part, name, batch
        self._key, self._axis_name, self._count = key, axis_name, 0
        self.batch_stats = batch_stats

    def __call__(self, theta, x, *, domain=None, layers=None, aside=False):
        check_domain(domain)
        if domain is None and self._part.uses_domain:
            _check_joint(self._name, x, self._batch)
        key = jax.random.fold_in(self._key, self._count) if self._count and not aside else self._key
        y, batch_stats = self._part.apply(
            theta,
            self.batch_stats,
            x,
            key=key,
            train=True,
            domain=domain,
            axis_name=self._axis_name,
            examples=_examples(x, domain, self._batch),
            layers=layers,
        )
        if not aside:
            self._count, self.batch_stats = self._count + 1, batch_stats
        return y


def _examples(x, domain, batch):
    """Returns how many examples the larger domain has in what a part is called with."""
    sizes = [count_examples(batch.source_image), count_examples(batch.target_image)]
    examples = count_examples(x)
    return max(sizes) if domain is None and examples == sum(sizes) else examples


def _check_joint(name, x, batch):
    """Raises where x is no joint batch of as many source as target examples."""
    source, target = map(count_examples, (batch.source_image, batch.target_image))
    if count_examples(x) != source + target:
        raise ValueError(
            f"G_{name} declares `domain` and got {count_examples(x)} examples without one, but the "
            f"joint batch has {source} source and {target} target examples: pass all of them, or "
            "those of one domain with domain=SOURCE or domain=TARGET"
        )
    if source != target:
        raise ValueError(
            f"a batch of {source} source and {target} target examples, but G_{name} declares "
            "`domain` and takes the first half of a joint batch for source: make both sizes "
            "equal, or pass one domain after the other with domain=SOURCE and domain=TARGET"
        )


def _varying(theta, axis_name):
    """Returns theta as values that may differ between devices.

    Under ``jax.shard_map`` the gradient for replicated values is summed over the devices
    already, and averaging it afterwards would leave it too large by their number.
    """
    # Adding what varies makes a sum that varies, whatever maps the axis: vmap, pmap, shard_map.
    zero = 0 * jax.lax.axis_index(axis_name)
    return jax.tree.map(lambda t: t + zero.astype(t.dtype), theta)


def _metrics(terms, lam, axis_name):
    weights = terms.weights
    if weights is not None:
        examples = max(map(len, jax.tree.leaves((terms.features, terms.labels, terms.domains))))
        check_weights(weights, (examples,), name="the weights in Terms")

    def mean(values, weights):
        return weighted_mean(values.astype(jnp.float32), weights, axis_name)

    def share(correct, logits, numbers, weights, least=0):
        # The largest of logits that are not finite is no class, and their sign no domain.
        count = max(2, logits.size // len(correct))  # of classes, or of domains
        defined = jnp.isfinite(logits).reshape(len(correct), -1).all(-1)
        defined &= (numbers >= least) & (numbers < count)
        return mean(jnp.where(defined, correct.astype(jnp.float32), np.float32(np.nan)), weights)

    label_accuracy = domain_accuracy = feature_norm = ABSENT
    if _are_numbers(terms.labels, terms.label_logits) and _has_classes(terms.label_logits):
        known = (terms.labels != -1).astype(jnp.float32)
        if weights is not None:
            known = known * weights[: len(known)]
        correct = jnp.argmax(terms.label_logits, -1) == terms.labels
        label_accuracy = share(correct, terms.label_logits, terms.labels, known, least=-1)
    if _are_numbers(terms.domains, terms.domain_logits) and terms.domain_logits.shape[1:] in (
        (),
        (1,),
    ):
        logits = terms.domain_logits.reshape(-1)
        is_right = (logits > 0) == (terms.domains > 0)
        domain_accuracy = share(is_right, logits, terms.domains, weights)
    if terms.features is not None:
        squares = [
            jnp.sum(a.astype(jnp.float32).reshape(len(a), -1) ** 2, -1)
            for a in jax.tree.leaves(terms.features)
        ]
        feature_norm = mean(jnp.sqrt(sum(squares)), weights)
    return Metrics(
        label_loss=ABSENT if terms.label_loss is None else terms.label_loss,
        label_accuracy=label_accuracy,
        domain_loss=ABSENT if terms.domain_loss is None else terms.domain_loss,
        domain_accuracy=domain_accuracy,
        feature_norm=feature_norm,
        lam=jnp.asarray(lam, jnp.float32),
        penalties=terms.penalties,
    )


def _has_classes(logits):
    return jnp.ndim(logits) == 2 and jnp.shape(logits)[1] > 1


def _are_numbers(numbers, logits):
    """Returns whether each row of logits has the number of a class or of a domain."""
    if numbers is None or logits is None:
        return False
    shape, is_integer = jnp.shape(numbers), jnp.issubdtype(jnp.result_type(numbers), jnp.integer)
    return is_integer and shape == jnp.shape(logits)[:1]
