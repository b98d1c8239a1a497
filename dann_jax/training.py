"""The update of Eqs. (4)-(6) as one pure per-device function, and its wrappers.

``make_update_step`` gives the function. ``make_train_steps`` runs it many times a call on one
device or, through ``jax.pmap``, on several; ``jax.vmap`` over states and keys works on it too.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dann_jax import batches, compilation, networks
from dann_jax.objective import SOURCE, Apply, Objective, reversed_objective, weighted_mean

__all__ = [
    "AXIS",
    "Metrics",
    "Program",
    "TrainState",
    "TrainSteps",
    "compile_over",
    "grouped",
    "init_state",
    "make_optimizer",
    "make_train_steps",
    "make_update_step",
    "replicate",
    "scans",
    "shares",
]

AXIS = "device"  # mapped axis of the devices that share a batch
PARTS = {"f": "feature_extractor", "y": "label_predictor", "d": "domain_classifier"}


@flax.struct.dataclass
class TrainState:
    """All that an update changes. It holds no PRNG key: randomness is a function of the step."""

    step: chex.Array  # [] int32, number of updates done
    theta: dict[str, Any]  # parameters 'f', 'y' and 'd' of G_f, G_y and G_d
    statistics: dict[str, Any]  # running averages of batch norm, under the same keys
    opt_state: Any


class Metrics(NamedTuple):
    """What an update saw, at the parameters before it; NaN where there is no domain branch."""

    label_loss: chex.Array  # [] L_y, nats
    label_accuracy: chex.Array  # [] share of the batch's labelled examples
    domain_loss: chex.Array  # [] L_d, nats, without its weight
    domain_accuracy: chex.Array  # [] share of the batch's source and target examples
    feature_norm: chex.Array  # [] mean Euclidean norm of the features of one example
    lam: chex.Array  # [] lambda


class _Part(NamedTuple):
    init: Callable[..., Any]  # (key, x) -> (theta, statistics)
    apply: Callable[..., Any]  # (theta, statistics, x, *, key, **options) -> (y, statistics)


def make_optimizer(
    mu: Callable[[chex.Array], chex.Array] | float,
    *,
    momentum: float = 0.9,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    factors: Callable[[tuple[str, ...]], float] | None = None,
) -> optax.GradientTransformation:
    """Returns the optimiser of the paper: SGD with momentum 0.9 and the learning rate mu.

    Args:
      mu: Learning rate as a function of the number of updates done, or a constant.
      momentum: Share of the last step that is kept.
      nesterov: Whether to use Nesterov's momentum.
      weight_decay: Multiple of the weights (arrays of two or more axes) added to the gradient.
      factors: Multiple of mu for a parameter, given its path as names from the part down, for
        example ``('f', 'conv1', 'bias')``: new layers x10, biases x2. None: 1 for each.

    Returns:
      An optax transformation over ``{'f', 'y', 'd'}``.

    Source: Ganin & Lempitsky (2015), Sec. 4.1.
    """

    def is_weight(theta):
        return jax.tree.map(lambda w: jnp.ndim(w) > 1, theta)

    steps = []
    if weight_decay:
        steps.append(optax.add_decayed_weights(weight_decay, mask=is_weight))
    steps.append(optax.sgd(mu, momentum=momentum, nesterov=nesterov))
    if factors is not None:
        steps.append(_scale_by_factors(factors))
    return optax.chain(*steps)


def _scale_by_factors(factors):
    def names(path):
        return tuple(str(getattr(k, "key", getattr(k, "name", k))) for k in path)

    def update(updates, state, params=None):
        del params
        scaled = jax.tree_util.tree_map_with_path(lambda p, u: factors(names(p)) * u, updates)
        return scaled, state

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
      optimizer: The optimiser whose state to start.
      key: PRNG key of the initialisation; each part has its own key derived from it.
      image: An example batch ``[n, height, width, channel]`` as G_f gets it (values unused).

    Returns:
      The state, step 0.
    """
    theta, statistics = {}, {}
    f = None
    for i, (part, name) in enumerate(PARTS.items()):
        function = _part(getattr(model, name))
        x = image if part == "f" else f
        theta[part], statistics[part] = function.init(jax.random.fold_in(key, i), x)
        if part == "f":
            f, _ = jax.eval_shape(
                lambda t, s, x, function=function: function.apply(t, s, x, key=None, domain=0),
                theta["f"],
                statistics["f"],
                image,
            )
            f = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), f)
    return TrainState(
        step=jnp.zeros([], jnp.int32),
        theta=theta,
        statistics=statistics,
        opt_state=optimizer.init(theta),
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
    ``axis_name`` and ``in_axes=(None, 0, None), out_axes=None``. lambda, and the optimiser's
    mu, are computed from ``state.step`` inside, so that they change without a retrace.
    Dropout masks are a function of (key, step) and, with an axis name, of the device.

    Args:
      model: G_f, G_y and G_d.
      optimizer: From ``make_optimizer``, or any optax transformation over theta.
      lam: lambda as a function of the number of updates done (not of p: see
        ``schedules.progress``), or a constant.
      objective: ``reversed_objective`` (DANN; ``functools.partial`` sets its normalisation and
        weight), ``label_objective`` (the baselines), or a function like them.
      axis_name: Mapped axis of the devices; their gradients are averaged. None for one device.

    Returns:
      The update.

    Source: Ganin & Lempitsky (2015), Eqs. (4)-(6) and (9).
    """
    functions = {part: _part(getattr(model, name)) for part, name in PARTS.items()}

    def update(state, batch, key):
        lam_t = lam(state.step) if callable(lam) else jnp.float32(lam)
        key = jax.random.fold_in(key, state.step)
        if axis_name is not None:
            key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))

        def loss(theta):
            statistics = dict(state.statistics)

            def applied(part, number):
                def apply(theta_part, x):
                    one_domain = _is_source_only(x, batch)
                    if not one_domain:
                        _check_halves(getattr(model, PARTS[part]), batch)
                    y, statistics[part] = functions[part].apply(
                        theta_part,
                        state.statistics[part],
                        x,
                        key=jax.random.fold_in(key, number),
                        train=True,
                        domain=SOURCE if one_domain else None,
                        axis_name=axis_name,
                    )
                    return y

                return apply

            apply = Apply(*(applied(part, i) for i, part in enumerate(PARTS)))
            value, terms = objective(theta, batch, lam_t, apply, axis_name=axis_name)
            return value, (terms, statistics)

        theta = state.theta if axis_name is None else _varying(state.theta, axis_name)
        gradients, (terms, statistics) = jax.grad(loss, has_aux=True)(theta)
        metrics = _metrics(terms, lam_t, axis_name)
        if axis_name is not None:
            gradients = jax.lax.pmean(gradients, axis_name)
            statistics, metrics = jax.lax.pmean((statistics, metrics), axis_name)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.theta)
        theta = optax.apply_updates(state.theta, updates)
        if model.max_norm is not None:
            theta = theta | {
                part: networks.project_max_norm(theta[part], model.max_norm) for part in "fy"
            }
        return TrainState(state.step + 1, theta, statistics, opt_state), metrics

    return update


def _is_source_only(x, batch):
    """Whether x holds the source examples alone, rather than those of both domains."""
    return _examples(x) == _examples(batch.source_image)


def _examples(tree):
    return len(jax.tree.leaves(tree)[0])


def _check_halves(function, batch):
    """Raises where a part tells the domains of a joint batch apart by its halves."""
    sizes = _examples(batch.source_image), _examples(batch.target_image)
    if sizes[0] != sizes[1] and networks.accepted(function, {"domain": None}):
        raise ValueError(
            f"a batch of {sizes[0]} source and {sizes[1]} target examples, but the network "
            "declares `domain` and takes the first half of a joint batch for source: make both "
            "sizes equal"
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
    nan = jnp.float32(jnp.nan)

    def mean(values, weights):
        return weighted_mean(values.astype(jnp.float32), weights, axis_name)

    known = (terms.labels >= 0).astype(jnp.float32)
    if terms.weights is not None:
        known = known * terms.weights[: len(known)]
    domain_loss, domain_accuracy = nan, nan
    if terms.domain_loss is not None:
        domain_loss = terms.domain_loss
        domain_accuracy = mean((terms.domain_logits > 0) == (terms.domains > 0), terms.weights)
    squares = [
        jnp.sum(a.astype(jnp.float32).reshape(len(a), -1) ** 2, -1)
        for a in jax.tree.leaves(terms.features)
    ]
    return Metrics(
        label_loss=terms.label_loss,
        label_accuracy=mean(jnp.argmax(terms.label_logits, -1) == terms.labels, known),
        domain_loss=domain_loss,
        domain_accuracy=domain_accuracy,
        feature_norm=mean(jnp.sqrt(sum(squares)), terms.weights),
        lam=jnp.asarray(lam, jnp.float32),
    )


class TrainSteps(Protocol):
    """A compiled training program."""

    def __call__(
        self, state: TrainState, arrays: batches.DomainArrays, key: chex.PRNGKey, steps: int
    ) -> tuple[TrainState, Metrics]:
        """Returns the state after ``steps`` updates and their metrics, ``[steps]`` each."""

    def lower(
        self, state: TrainState, arrays: batches.DomainArrays, key: chex.PRNGKey, steps: int
    ) -> jax.stages.Lowered:
        """Returns the lowering of the program that such a call runs; nothing is trained.

        Its ``compile()`` tells the memory and the operations that the program takes. Where the
        host goes round, the program is that of one step, however many there are.
        """


@dataclasses.dataclass(frozen=True)
class Program:
    """A ``TrainSteps``: a compiled function and what to call it with.

    Attributes:
      compiled: ``(state, arrays, *inputs) -> (state, metrics)``, from ``jax.jit`` or ``jax.pmap``.
      inputs: Takes what the program takes, and returns the inputs of each call of ``compiled``.
      axis: Axis of the steps in the metrics where ``compiled`` makes one step; None where it
        makes all of them.
    """

    compiled: Callable[..., tuple[Any, Any]]
    inputs: Callable[..., list[tuple[Any, ...]]]
    axis: int | None

    def __call__(self, state, arrays, *args, **kwargs):
        """Returns the new state and the metrics."""
        metrics = []
        for inputs in self.inputs(state, arrays, *args, **kwargs):
            state, seen = self.compiled(state, arrays, *inputs)
            metrics.append(seen)
        if self.axis is None:
            return state, seen
        return state, jax.tree.map(lambda *m: jnp.stack(m, self.axis), *metrics)

    def lower(self, state, arrays, *args, **kwargs):
        """Returns the lowering of ``compiled``."""
        inputs, *_ = self.inputs(state, arrays, *args, **kwargs)
        return self.compiled.lower(state, arrays, *inputs)


def make_train_steps(
    make_update: Callable[..., Callable],
    *,
    examples: tuple[int, int],
    batch: tuple[int, int],
    preprocess: Callable[[batches.DomainBatch], batches.DomainBatch],
    labelled: tuple[int, int] | None = None,
    devices: list[jax.Device] | None = None,
    fused: bool | None = None,
) -> TrainSteps:
    """Returns a program that draws batches on the device and performs many updates a call.

    The state is donated: the one passed in must not be used again. On several devices the
    update runs under ``jax.pmap``, each device on its share of the same global batch that one
    device would get. They may be those of several processes (``jax.distributed``): each of these
    makes the same calls, and has the state, the images and the metrics whole. ``jax.lax.scan``
    fuses the updates of a call into one program, where ``scans`` says so; or the host goes round.

    Args:
      make_update: ``axis_name -> update``, such as ``make_update_step`` with all its arguments
        but ``axis_name`` bound by ``functools.partial``.
      examples: Number of examples in (source, target).
      batch: Examples a step, over all devices, in (source, target).
      preprocess: Turns a batch as stored into one that G_f takes, inside the program.
      labelled: Number of labelled examples in the target, and a step, over all devices; see
        ``batch_indices``. No other label of the target is trained with.
      devices: Devices to use, ``jax.devices()`` for those of all processes; None for all local
        ones.
      fused: Whether to scan over the steps of a call; None for as ``scans`` says.

    Returns:
      ``train(state, arrays, key, steps) -> (state, metrics)``, where ``steps`` is static and
      the first batch is that of step ``state.step``. Put ``state`` and ``arrays`` on the
      devices with ``replicate`` first. ``train.lower`` takes the same, see ``TrainSteps``.

    Raises:
      ValueError: A batch does not split evenly over the devices.
    """
    devices = grouped(devices)
    count = len(devices)
    for name, size in zip(("source", "target"), batch, strict=True):
        if size % count:
            raise ValueError(
                f"batch of {size} {name} examples cannot be split over {count} devices: "
                f"make the batch size a multiple of {count}"
            )
    fused = scans(devices) if fused is None else fused
    update = make_update(axis_name=AXIS if count > 1 else None)

    def step(state, arrays, source, target, key):
        _, noise_key = jax.random.split(key)
        batch = batches.gather(arrays, source, target, labelled)
        return update(state, preprocess(batch), noise_key)

    def steps_of(state, arrays, source, target, key):
        def body(state, indices):
            return step(state, arrays, *indices, key)

        return jax.lax.scan(body, state, (source, target))

    compiled = compile_over(devices, steps_of if fused else step, (None, None, 0, 0, None))
    mine = np.array([d.process_index == jax.process_index() for d in devices])

    def by_device(indices):  # [steps, batch] -> [devices of this process, steps, share]
        if count == 1:
            return indices
        return indices.reshape(len(indices), count, -1).swapaxes(0, 1)[mine]

    def draw(key, first_step, steps):
        order_key, _ = jax.random.split(key)
        return batches.batch_indices(
            order_key,
            first_step,
            steps=steps,
            examples=examples,
            batch=batch,
            labelled=labelled,
        )

    @functools.partial(jax.jit, static_argnums=2, out_shardings=shares(devices))
    def draw_shares(key, first_step, steps):
        return jax.tree.map(by_device, draw(key, first_step, steps))

    rows = batches.in_blocks(jax.jit(draw, static_argnums=2))

    def inputs(state, arrays, key, steps):
        batches.check_arrays(arrays, examples, labelled)
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        if fused:
            return [(*draw_shares(key, state.step, steps), key)]
        source, target = map(by_device, rows(key, int(state.step), steps))
        axis = 1 if count > 1 else 0
        return [(source.take(s, axis), target.take(s, axis), key) for s in range(steps)]

    return Program(compiled, inputs, axis=None if fused else 0)


def grouped(devices: list[jax.Device] | None) -> list[jax.Device]:
    """Returns the devices, those of a process together; all local ones for None."""
    if devices is None:
        return jax.local_devices()
    return sorted(devices, key=lambda device: device.process_index)


def scans(devices: list[jax.Device]) -> bool:
    """Returns whether the updates of a call are one program where nothing else is asked for."""
    # XLA on CPU brings the gradients of convolutions into the form that its fast kernels take
    # outside of loops only.
    return devices[0].platform != "cpu"


def compile_over(
    devices: list[jax.Device], program: Callable[..., Any], in_axes: tuple[int | None, ...]
) -> Callable[..., Any]:
    """Returns ``program(state, ...) -> (state, metrics)`` compiled: for one device, or mapped.

    Args:
      devices: One, or several, over which ``AXIS`` is mapped.
      program: The function. Its first argument is donated.
      in_axes: Axis of each argument along which the devices get their shares, on several.

    Returns:
      The compiled function; what it returns is equal on all devices, without an axis for them.
    """
    if len(devices) == 1:
        options = compilation.options(devices[0].platform)
        return jax.jit(program, donate_argnums=0, compiler_options=options)
    return jax.pmap(
        program,
        axis_name=AXIS,
        in_axes=in_axes,
        out_axes=(None, None),
        donate_argnums=0,
        devices=devices,
    )


def shares(devices: list[jax.Device]) -> jax.sharding.Sharding:
    """Returns the layout of an array whose first axis is that of this process's devices."""
    return NamedSharding(_mesh(devices), PartitionSpec(AXIS if len(devices) > 1 else None))


def replicate(tree: Any, devices: list[jax.Device] | None = None) -> Any:
    """Returns ``tree`` copied to each device, in the layout of a pmapped state: no new axis.

    Args:
      tree: Pytree of arrays, equal in all processes.
      devices: None for all local ones; those of other processes are left to these.

    Returns:
      Pytree of arrays that are whole on each device of this process.
    """
    return jax.device_put(tree, NamedSharding(_mesh(devices), PartitionSpec()), may_alias=False)


def _mesh(devices):
    """Returns the devices of this process as a mesh."""
    local = [d for d in grouped(devices) if d.process_index == jax.process_index()]
    return Mesh(np.asarray(local), (AXIS,))


def _part(function):
    if isinstance(function, networks.PureFunction):
        return _Part(
            lambda key, x: (function.init(key, x), {}),
            lambda theta, statistics, x, **_: (function.apply(theta, x), statistics),
        )

    def init(key, x):
        # One domain: a joint batch would have to have two halves.
        options = {"train": False, "domain": SOURCE, "axis_name": None}
        variables = dict(function.init(key, x, **networks.accepted(function, options)))
        return variables.pop("params", {}), variables

    def apply(theta, statistics, x, *, key, train=False, domain=None, axis_name=None):
        options = {"train": train, "domain": domain, "axis_name": axis_name}
        variables = {"params": theta, **statistics}
        y, new = function.apply(
            variables,
            x,
            rngs=None if key is None else {"dropout": key},
            mutable=list(statistics) if train else [],
            **networks.accepted(function, options),
        )
        return y, (dict(new) if train and statistics else statistics)

    return _Part(init, apply)
