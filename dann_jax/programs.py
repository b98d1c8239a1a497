"""Compiled programs of many updates: on one device or several, for one key or many, or a stream.

Every program makes the same step: it draws the batch of step t, a pure function of (key, t),
preprocesses it and makes the update with the noise of (key, t). ``_rows`` and ``_step`` are the
only places where that is written; ``jax.jit``, ``jax.pmap``, ``jax.vmap`` over keys,
``jax.lax.scan`` and a stream of batches are thin drivers of them.

A study over K keys runs under ``jax.vmap``: each key has its own initialization, data order and
dropout, and all share the images on the device. On several devices the keys are spread over them
first, so that nothing has to be averaged; where there are too few keys for that, several devices
share the batches of each. The same axis can carry settings that vary:

    def make_update(settings, axis_name):
        mu = lambda step: mu_p(progress(step, steps), settings["mu0"])
        lam = lambda step: lambda_p(progress(step, steps), settings["gamma"])
        return make_update_step(model, make_optimizer(mu), lam, axis_name=axis_name)

    keys = jax.random.split(jax.random.key(0), 4)
    settings = {"mu0": jnp.full(4, 0.01), "gamma": jnp.array([5.0, 10.0, 15.0, 20.0])}
    states = init_states(model, make_optimizer(lambda step: 0.01), keys, image)
    train = make_study_steps(make_update, examples=..., batch=(64, 64), preprocess=...)
    states, metrics = train(states, replicate(arrays), keys, 100, settings)
"""

import dataclasses
import functools
import inspect
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dann_jax import batches, kernels
from dann_jax.checks import (
    LabelWatch,
    check_count,
    check_fits,
    check_key,
    check_pair,
    known_values,
)
from dann_jax.networks import DannModel
from dann_jax.training import Metrics, TrainState, init_state

__all__ = [
    "AXIS",
    "Group",
    "Program",
    "StudySteps",
    "TrainSteps",
    "check_replicated",
    "group_keys",
    "init_states",
    "make_stream_steps",
    "make_study_steps",
    "make_train_steps",
    "replicate",
]

AXIS = "device"  # mapped axis of the devices that share a batch
_IN_FLIGHT = 2  # streamed steps that the device has to do before the host waits for it

Preprocess = Callable[[batches.DomainBatch], batches.DomainBatch]


# --- the step ----------------------------------------------------------------------------


class _Sizes(NamedTuple):
    """What batches are drawn from, see ``batches.batch_indices``."""

    examples: tuple[int, int]
    batch: tuple[int, int]
    labelled: tuple[int, int] | None


def _rows(sizes, key, first_step, steps):
    """Returns which examples the batches of some steps hold, ``[steps, batch]`` a domain."""
    order_key = batches.split_key(key).order
    return batches.batch_indices(order_key, first_step, steps=steps, **sizes._asdict())


def _step(update, preprocess, state, batch, key):
    """Returns the state after the update with a batch as stored, and the metrics."""
    batch = preprocess(batch)
    if not isinstance(batch, batches.DomainBatch):
        raise TypeError(
            f"preprocess must return a DomainBatch, got {type(batch).__name__}: "
            "return batch._replace(source_image=..., target_image=...)"
        )
    LabelWatch.trace(**_labels_of(batch))
    return update(state, batch, batches.split_key(key).noise)


def _labels_of(data):
    """Returns the labels of arrays or of a batch by name."""
    return {name: getattr(data, name) for name in ("source_label", "target_label")}


class _Labels:
    """Checks labels as an objective gets them: after ``preprocess``, which may number them anew."""

    def __init__(self, preprocess, sizes=None):
        """Starts with the sizes that batches of arrays have; None for batches of a stream."""
        self._preprocess, self._sizes = preprocess, sizes
        self._watch = LabelWatch()
        self._kept: bool | None = None  # whether preprocess leaves them alone, if known
        self._mapped = jax.jit(lambda batch: _labels_of(preprocess(batch)))
        self._last: tuple[list[Any], dict[str, Any]] = [], {}  # arrays, and their labels

    def over(self, data):
        """Returns a context in which the labels of arrays, or of a batch, are checked."""
        labels = _labels_of(data)
        if any(x is not None and known_values(x) is None for x in labels.values()):
            return self._watch.over(labels)
        if self._kept is None:
            self._kept = self._keeps(data if self._sizes is None else next(self._blocks(data)))
        if self._kept:
            return self._watch.over(labels)
        leaves = jax.tree.leaves(data)
        same = len(leaves) == len(self._last[0])
        if not (same and all(map(operator.is_, leaves, self._last[0]))):
            self._last = leaves, self._all_mapped(data)
        return self._watch.over(self._last[1], after=" after preprocess")

    def _keeps(self, batch):
        kept = []

        def probe(batch):
            after = self._preprocess(batch)
            if isinstance(after, batches.DomainBatch):  # another type is refused in the step
                before = _labels_of(batch)
                kept.extend(x is before[name] for name, x in _labels_of(after).items())

        jax.eval_shape(probe, batch)
        return all(kept)

    def _blocks(self, arrays):
        """Yields batches that hold each example, as stored."""
        ranges = zip(self._sizes.examples, self._sizes.batch, strict=True)
        source, target = ([np.arange(i, i + b) % n for i in range(0, n, b)] for n, b in ranges)
        for i in range(max(len(source), len(target))):
            rows = source[i % len(source)], target[i % len(target)]
            yield batches.gather(arrays, *rows, self._sizes.labelled)

    def _all_mapped(self, data):
        if self._sizes is None:
            return self._mapped(data)
        blocks = [self._mapped(batch) for batch in self._blocks(data)]
        return {
            name: None if blocks[0][name] is None else np.concatenate([b[name] for b in blocks])[:n]
            for name, n in zip(blocks[0], self._sizes.examples, strict=True)
        }


def _step_of_rows(update, preprocess, labelled, state, arrays, source, target, key):
    """Returns the same for the examples with the given indices."""
    batch = batches.gather(arrays, source, target, labelled)
    return _step(update, preprocess, state, batch, key)


def _scanned(step):
    """Returns a program of all steps of a call; rows have a first axis of steps, metrics too."""

    def steps(state, arrays, source, target, *keys):
        def body(state, rows):
            return step(state, arrays, *rows, *keys)

        return jax.lax.scan(body, state, (source, target))

    return steps


def _scans(devices):
    """Returns whether a call's updates are one program unless the caller says otherwise."""
    # XLA on CPU brings the gradients of convolutions into the form that its fast kernels take
    # outside of loops only.
    return devices[0].platform != "cpu"


def _update_of(make_update, axis_name):
    """Returns the update for an axis of devices."""
    try:
        inspect.signature(make_update).bind(axis_name=axis_name)
    except TypeError as error:
        raise TypeError(
            f"make_update must be a function of axis_name alone ({error}): pass "
            "functools.partial(make_update_step, model, optimizer, lam)"
        ) from None
    return make_update(axis_name=axis_name)


# --- one training ------------------------------------------------------------------------


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
        loop over the steps runs in Python, the program is that of one step.
        """


@dataclasses.dataclass(frozen=True)
class Program:
    """A ``TrainSteps``: a compiled function and what to call it with.

    Attributes:
      compiled: ``(state, arrays, *inputs) -> (state, metrics)``, from ``jax.jit`` or ``jax.pmap``.
      inputs: Takes what the program takes, and returns the inputs of each call of ``compiled``.
      axis: Axis of the steps in the metrics where ``compiled`` makes one step; None where it
        makes all of them.
      labels: Checks the labels of the arrays in a call.
    """

    compiled: Callable[..., tuple[Any, Any]]
    inputs: Callable[..., list[tuple[Any, ...]]]
    axis: int | None
    labels: _Labels

    def __call__(self, state, arrays, *args, **kwargs):
        """Returns the new state and the metrics."""
        of_calls = []
        inputs_of_calls = self.inputs(state, arrays, *args, **kwargs)
        with self.labels.over(arrays):
            for inputs in inputs_of_calls:
                state, metrics = self.compiled(state, arrays, *inputs)
                of_calls.append(metrics)
        if self.axis is None:
            return state, metrics
        return state, jax.tree.map(lambda *m: jnp.stack(m, self.axis), *of_calls)

    def lower(self, state, arrays, *args, **kwargs):
        """Returns the lowering of ``compiled``."""
        inputs, *_ = self.inputs(state, arrays, *args, **kwargs)
        with self.labels.over(arrays):
            return self.compiled.lower(state, arrays, *inputs)


def make_train_steps(
    make_update: Callable[..., Callable],
    *,
    examples: tuple[int, int],
    batch: tuple[int, int],
    preprocess: Preprocess,
    labelled: tuple[int, int] | None = None,
    devices: list[jax.Device] | None = None,
    fused: bool | None = None,
) -> TrainSteps:
    """Returns a program that draws batches on the device and performs many updates a call.

    The state is donated: the one passed in must not be used again. On several devices the
    update runs under ``jax.pmap``, each device on its share of the same global batch that one
    device would get. They may be those of several processes (``jax.distributed``): each of these
    makes the same calls, and has the state, the images and the metrics whole. The updates of a
    call are one program by ``jax.lax.scan``, or, on CPU by default, a loop in Python.

    Args:
      make_update: ``axis_name -> update``, such as ``make_update_step`` with all its arguments
        but ``axis_name`` bound by ``functools.partial``.
      examples: Number of examples in (source, target).
      batch: Examples a step, over all devices, in (source, target).
      preprocess: Turns a batch as stored into one that G_f takes, inside the program.
      labelled: Number of labelled examples in the target, and a step, over all devices; see
        ``batches.batch_indices``. Training uses no other label of the target.
      devices: Devices to use, ``jax.devices()`` for those of all processes; None for all local
        ones.
      fused: Whether to scan over the steps of a call; None for a scan except on CPU, where
        convolutions are slower inside one.

    Returns:
      ``train(state, arrays, key, steps) -> (state, metrics)``, where ``steps`` is static and
      the first batch is that of step ``state.step``. Put ``state`` and ``arrays`` on the
      devices with ``replicate`` first. ``train.lower`` takes the same, see ``TrainSteps``.

    Raises:
      ValueError: A batch does not split evenly over the devices; or, from the program before it is
        compiled, there are other numbers of examples, or a label is no class of the objective.
      TypeError: From the program: the objective is for classes and labels are not integers.
    """
    devices = _grouped(devices)
    count = len(devices)
    check_pair(examples, "examples")
    check_pair(batch, "batch")
    for name, size in zip(("source", "target"), batch, strict=True):
        if size % count:
            both = f", {batches.multiples(2 * size, 2 * count)} of both domains together"
            raise ValueError(
                f"batch of {size} {name} examples cannot be split over {count} devices: choose "
                f"{batches.multiples(size, count)}{both if batch[0] == batch[1] else ''}"
            )
    fused = _scans(devices) if fused is None else fused
    update = _update_of(make_update, AXIS if count > 1 else None)
    step = functools.partial(_step_of_rows, update, preprocess, labelled)
    compiled = _compile_over(devices, _scanned(step) if fused else step, (None, None, 0, 0, None))
    sizes = _Sizes(examples, batch, labelled)
    draw = functools.partial(_rows, sizes)
    local = np.array([d.process_index == jax.process_index() for d in devices])

    def by_device(rows):  # [steps, batch] -> [devices of this process, steps, share]
        if count == 1:
            return rows
        return rows.reshape(len(rows), count, -1).swapaxes(0, 1)[local]

    @functools.partial(jax.jit, static_argnums=2, out_shardings=_shares(devices))
    def draw_shares(key, first_step, steps):
        return jax.tree.map(by_device, draw(key, first_step, steps))

    rows_on_host = batches.in_blocks(jax.jit(draw, static_argnums=2))

    def inputs(state, arrays, key, steps):
        batches.check_sizes(arrays, examples, labelled)
        check_count(steps, "steps")
        check_key(key)
        if fused:
            return [(*draw_shares(key, state.step, steps), key)]
        source, target = map(by_device, rows_on_host(key, int(_on_host(state.step)), steps))
        axis = 1 if count > 1 else 0
        return [(source.take(s, axis), target.take(s, axis), key) for s in range(steps)]

    return Program(compiled, inputs, None if fused else 0, _Labels(preprocess, sizes))


# --- devices -----------------------------------------------------------------------------


def _grouped(devices):
    """Returns the devices, those of a process together; all local ones for None."""
    if devices is None:
        return jax.local_devices()
    if not isinstance(devices, list | tuple) or not 0 < len(set(devices)) == len(devices):
        raise ValueError(
            f"devices must be a list of distinct devices, got {devices!r:.80}: "
            "pass jax.local_devices()[:2], say"
        )
    return sorted(devices, key=lambda device: device.process_index)


def _compile_over(devices, program, in_axes):
    """Returns ``program(state, ...) -> (state, metrics)`` compiled: for one device, or mapped.

    Args:
      devices: One, or several, over which ``AXIS`` is mapped.
      program: The function. Its first argument is donated.
      in_axes: Axis of each argument along which the devices get their shares, on several.

    Returns:
      The compiled function; what it returns is equal on all devices, without an axis for them.
    """
    if len(devices) == 1:
        options = kernels.compiler_options(devices[0].platform)
        return jax.jit(program, donate_argnums=0, compiler_options=options)
    return jax.pmap(
        program,
        axis_name=AXIS,
        in_axes=in_axes,
        out_axes=(None, None),
        donate_argnums=0,
        devices=devices,
    )


def _on_host(step):
    """Returns steps from a copy: JAX may keep a view of what it reads, and not give that up."""
    if isinstance(step, jax.Array):
        step = jnp.copy(step.addressable_data(0) if step.is_fully_replicated else step)
    return np.asarray(step)


def _shares(devices):
    """Returns the layout of an array whose first axis is that of this process's devices."""
    return NamedSharding(_mesh(devices), PartitionSpec(AXIS if len(devices) > 1 else None))


def replicate(tree: Any, devices: list[jax.Device] | None = None) -> Any:
    """Returns ``tree`` copied to each device, in the layout of a pmapped state: no new axis.

    Args:
      tree: Pytree of arrays, equal in all processes.
      devices: None for all local ones; other processes copy to their own.

    Returns:
      Pytree of arrays that are whole on each device of this process.

    Raises:
      ValueError: An integer, a label say, does not fit the 32 bits that JAX keeps of it.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        check_fits(leaf, f"tree{jax.tree_util.keystr(path)}")
    return jax.device_put(tree, NamedSharding(_mesh(devices), PartitionSpec()), may_alias=False)


def check_replicated(tree: Any) -> None:
    """Checks that what several devices of this process hold whole is equal on them, bit for bit.

    A program that is mapped over devices does not check it, and who reads such an array gets the
    first device's. Call it once, at the end of a training.

    Args:
      tree: Pytree of arrays; NumPy arrays, and shares of an array that one device holds, pass.

    Raises:
      ValueError: An array differs.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        first: dict[str, Any] = {}  # of each part of the array, the copy that comes first
        for shard in getattr(leaf, "addressable_shards", ()):
            one = first.setdefault(str(shard.index), shard)
            if one is not shard and not _same_bits(one.data, shard.data):
                raise ValueError(
                    f"expected equal numbers on all devices, got others on {one.device} than on "
                    f"{shard.device} for tree{jax.tree_util.keystr(path)}: average what an update "
                    "makes of a device's share of the batch with jax.lax.pmean over its axis_name"
                )


def _same_bits(one, other):
    if jax.dtypes.issubdtype(one.dtype, jax.dtypes.prng_key):
        one, other = map(jax.random.key_data, (one, other))
    one, other = (np.ascontiguousarray(x).reshape(-1).view(np.uint8) for x in (one, other))
    return np.array_equal(one, other)


def _mesh(devices):
    """Returns the devices of this process as a mesh."""
    local = [d for d in _grouped(devices) if d.process_index == jax.process_index()]
    return Mesh(np.asarray(local), (AXIS,))


# --- many trainings ----------------------------------------------------------------------


def init_states(
    model: DannModel,
    optimizer: optax.GradientTransformation,
    keys: chex.PRNGKey,
    image: chex.Array,
) -> TrainState:
    """Returns the states of many trainings before the first update.

    Args:
      model: G_f, G_y and G_d.
      optimizer: The optimizer whose state to start. The learning rate does not matter here, but
        that it is a function of the step, or is not, does.
      keys: PRNG keys of the initializations, ``[K]``.
      image: An example batch ``[n, height, width, channel]`` as G_f gets it (values unused).

    Returns:
      A state whose arrays have a first axis of K; entry i is ``init_state`` of ``keys[i]``.
    """
    check_key(keys, "keys", many=True)
    return jax.vmap(lambda key: init_state(model, optimizer, key, image))(keys)


@dataclasses.dataclass(frozen=True)
class StudySteps:
    """A compiled program of many trainings.

    Attributes:
      program_of: Returns the program of K trainings, the same for the same K.
    """

    program_of: Callable[[int], Program]

    def __call__(
        self,
        states: TrainState,
        arrays: batches.DomainArrays,
        keys: chex.PRNGKey,
        steps: int,
        settings: Any = None,
    ) -> tuple[TrainState, Metrics]:
        """Returns the states after ``steps`` updates and their metrics, ``[K, steps]`` each.

        States, keys and settings may lie on any devices.
        """
        check_key(keys, "keys", many=True)
        return self.program_of(len(keys))(states, arrays, keys, steps, settings)

    def lower(
        self,
        states: TrainState,
        arrays: batches.DomainArrays,
        keys: chex.PRNGKey,
        steps: int,
        settings: Any = None,
    ) -> jax.stages.Lowered:
        """Returns the lowering of the program of such a call, see ``TrainSteps.lower``."""
        check_key(keys, "keys", many=True)
        return self.program_of(len(keys)).lower(states, arrays, keys, steps, settings)


class Group(NamedTuple):
    """Keys that are trained as one program; their number decides the last bits of the numbers."""

    keys: tuple[int, ...]
    devices_per_key: int  # which share its batches


def group_keys(
    keys: Sequence[int],
    devices: int,
    *,
    together: int | None = None,
    devices_per_key: int | None = None,
) -> list[Group]:
    """Returns keys in groups that ``make_study_steps`` takes, spread over the devices first.

    >>> group_keys([0, 1, 2], 2)
    [Group(keys=(0, 1), devices_per_key=1), Group(keys=(2,), devices_per_key=2)]

    Args:
      keys: Numbers of the keys.
      devices: How many there are.
      together: The largest number of keys in a group; None for as many as there are.
      devices_per_key: How many devices share the batches of a key, a divisor of ``devices``;
        None for as few as keep all devices busy.

    Raises:
      ValueError: A number is not positive, or ``devices_per_key`` is no divisor.
    """
    for name, number in (("devices", devices), ("together", together)):
        if number is not None:
            check_count(number, name)
    if devices_per_key is not None and devices % check_count(devices_per_key, "devices_per_key"):
        raise ValueError(
            f"devices_per_key must be a divisor of the {devices} devices, got {devices_per_key}"
        )

    def fits(size):
        if devices_per_key is None:
            return not (size % devices and devices % size)
        at_once = devices // devices_per_key
        return size < at_once or not size % at_once

    every: list[Group] = []
    while keys:
        most = min(together or len(keys), len(keys))
        size = max(filter(fits, range(1, most + 1)))
        every.append(Group(tuple(keys[:size]), devices_per_key or max(1, devices // size)))
        keys = keys[size:]
    return every


def make_study_steps(
    make_update: Callable[..., Callable],
    *,
    examples: tuple[int, int],
    batch: tuple[int, int],
    preprocess: Preprocess,
    labelled: tuple[int, int] | None = None,
    devices: list[jax.Device] | None = None,
    devices_per_training: int | None = None,
    fused: bool | None = None,
) -> StudySteps:
    """Returns a program that makes many updates of each of K trainings.

    Training i has the batches and the noise of ``make_train_steps`` with ``keys[i]`` on as many
    devices as share it here. The states are donated: those passed in must not be used again.

    Args:
      make_update: ``(settings, axis_name) -> update``, where the update is that of
        ``make_update_step``, and ``settings`` those of one training, or None. It is called with
        ``axis_name`` as a keyword; None where no devices share a training.
      examples: Number of examples in (source, target).
      batch: Examples a step and training, over all devices, in (source, target).
      preprocess: Turns a batch as stored into one that G_f takes, inside the program.
      labelled: Number of labelled examples in the target, and a step and training; see
        ``batches.batch_indices``.
      devices: Devices to spread the trainings over; None for all local ones.
      devices_per_training: How many devices share the batches of each training, and average its
        gradients. None for as few as keep all devices busy: one where the devices divide the
        number of trainings.
      fused: Whether to scan over the steps of a call, see ``make_train_steps``.

    Returns:
      ``train(states, arrays, keys, steps, settings=None) -> (states, metrics)``: states and
      settings are pytrees of arrays with a first axis of K, keys ``[K]``, metrics
      ``[K, steps]`` each. Put ``arrays`` on the devices with ``replicate`` first.

    Raises:
      ValueError: From the program: K trainings or their batches do not spread evenly over the
        devices, keys, states and settings differ in their number, there are other numbers of
        examples, or a label is no class of the objective.
    """
    devices = jax.local_devices() if devices is None else list(devices)
    fused = _scans(devices) if fused is None else fused
    sizes = _Sizes(examples, batch, labelled)

    @functools.cache
    def program_of(size):
        sharing = _sharing(size, batch, len(devices), devices_per_training)
        axis_name = AXIS if sharing > 1 else None

        def step(state, arrays, source, target, key, settings):
            update = make_update(settings, axis_name=axis_name)
            return _step_of_rows(update, preprocess, labelled, state, arrays, source, target, key)

        # jax.pmap, which is a jax.shard_map over one axis, has no place for the second.
        mesh = Mesh(np.reshape(devices, (-1, sharing)), ("training", AXIS))
        each = jax.vmap(step, in_axes=(0, None, 0, 0, 0, 0))
        return _study_program(each, sizes, mesh, fused, _Labels(preprocess, sizes))

    return StudySteps(program_of)


def _study_program(step, sizes, mesh, fused, labels):
    """Returns the program of trainings whose ``step`` is mapped already."""

    def steps(*args):
        states, metrics = _scanned(step)(*args)
        return states, jax.tree.map(lambda m: m.swapaxes(0, 1), metrics)

    each, whole = PartitionSpec("training"), PartitionSpec()
    rows = PartitionSpec(*([None] if fused else []), "training", AXIS)
    in_specs = each, whole, rows, rows, each, each
    placed = functools.partial(NamedSharding, mesh)
    compiled = jax.jit(
        jax.shard_map(
            steps if fused else step,
            mesh=mesh,
            in_specs=in_specs,
            out_specs=each,
            check_vma=False,  # as in jax.pmap: loops in a network need not know of devices
        ),
        in_shardings=jax.tree.map(placed, in_specs),
        out_shardings=placed(each),
        donate_argnums=0,
        compiler_options=kernels.compiler_options(mesh.devices.flat[0].platform),
    )

    @functools.partial(jax.jit, static_argnums=2, out_shardings=placed(rows) if fused else None)
    def draw(keys, first_step, steps):
        first_step = jnp.ravel(first_step)[0]
        of_key = functools.partial(_rows, sizes, first_step=first_step, steps=steps)
        return jax.vmap(of_key, out_axes=1)(keys)  # [steps, K, batch]

    rows_on_host = batches.in_blocks(draw)

    def prepared(states, arrays, keys, steps, settings):
        _check_study(states, keys, settings)
        check_count(steps, "steps")
        batches.check_sizes(arrays, sizes.examples, sizes.labelled)
        states, keys, settings = _moved((states, keys, settings), placed(each))
        return states, arrays, keys, steps, settings

    def inputs(states, arrays, keys, steps, settings):
        if fused:
            return [(*draw(keys, states.step, steps), keys, settings)]
        first, *others = set(_on_host(states.step).tolist())
        if others:
            raise ValueError(
                f"states must be at one step, got {first} and {others[0]}: train those together "
                "that have made as many updates"
            )
        of_steps = zip(*rows_on_host(keys, first, steps), strict=True)
        return [(*of_step, keys, settings) for of_step in of_steps]

    return _SpreadProgram(compiled, inputs, None if fused else 1, labels, prepared)


@dataclasses.dataclass(frozen=True)
class _SpreadProgram(Program):
    """A program of states, keys and settings that may lie on other devices than its own."""

    prepared: Callable[..., tuple[Any, ...]]

    def __call__(self, *args):
        return super().__call__(*self.prepared(*args))

    def lower(self, *args):
        return super().lower(*self.prepared(*args))


def _moved(tree, sharding):
    """Returns a tree with the arrays that are tied to other devices, as restored ones, moved."""

    def moved(x):
        tied = isinstance(x, jax.Array) and x.committed
        if not tied or x.sharding.is_equivalent_to(sharding, x.ndim):
            return x  # jax.jit takes it as it is
        return jax.device_put(x, sharding, may_alias=False)  # a copy: states are donated

    return jax.tree.map(moved, tree)


def _sharing(size, batch, count, wanted):
    """Returns how many of the devices share each training."""

    def possible(count):
        return [
            sharing
            for sharing in range(1, count + 1)
            if not (count % sharing or size % (count // sharing))
            and not any(n % sharing for n in batch)
        ]

    for sharing in possible(count):
        if wanted in (None, sharing):
            return sharing
    what = f"{size} trainings with batches of {batch[0]} source and {batch[1]} target examples"
    if possible(count):
        raise ValueError(
            f"{what} cannot have {wanted} devices each of {count}: make devices_per_training "
            f"one of {', '.join(map(str, possible(count)))}, or None"
        )
    raise ValueError(
        f"{what} cannot be spread over {count} devices: use one of "
        f"{', '.join(str(n) for n in range(1, count) if possible(n))} devices"
    )


def _check_study(states, keys, settings):
    size = len(keys)
    sizes = {len(x) if jnp.ndim(x) else None for x in jax.tree.leaves((states, settings))}
    if sizes != {size}:
        raise ValueError(
            f"expected states and settings of {size} trainings, as many as keys, got arrays with "
            f"a first axis of {', '.join(map(str, sorted(sizes, key=str)))}"
        )


# --- a stream ----------------------------------------------------------------------------


def make_stream_steps(
    make_update: Callable[..., Callable],
    *,
    preprocess: Preprocess,
    devices: list[jax.Device] | None = None,
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Returns the program of ``make_train_steps`` for batches from ``streaming.batch_stream``.

    The state is donated. A batch is read and copied to the devices while they are busy with the
    one before it. The program takes no batch without training on it, so between two calls the
    position of the stream is the step.

    Args:
      make_update: ``axis_name -> update``, see ``make_train_steps``.
      preprocess: Turns a batch as streamed into one that G_f takes, inside the program.
      devices: Devices to use; None for all local ones. On those of several processes each takes
        its own rows of the global batch, which are what its stream gives.

    Returns:
      ``train(state, stream, key, steps) -> (state, metrics)``, with the key that
      ``batch_stream`` got. Put ``state`` on the devices with ``replicate`` first.

    Raises:
      ValueError: From the program: the stream stands at another step than the state, the
        batch does not split evenly over the devices, or a label is no class of the objective.
    """
    devices = _grouped(devices)
    count = len(devices)
    update = _update_of(make_update, AXIS if count > 1 else None)
    compiled = _compile_over(devices, functools.partial(_step, update, preprocess), (None, 0, None))
    shares = _shares(devices)
    local, labels = shares.num_devices, _Labels(preprocess)

    def place(batch):
        if count > 1:
            for x in jax.tree.leaves(batch):
                if len(x) % local:
                    raise ValueError(
                        f"batch of {len(x)} examples cannot be split over {local} devices: "
                        f"choose {batches.multiples(len(x), local)}"
                    )
            batch = jax.tree.map(lambda x: x.reshape(local, -1, *x.shape[1:]), batch)
        return jax.device_put(batch, shares)

    def train(state, stream, key, steps):
        check_count(steps, "steps")
        check_key(key)
        if not hasattr(stream, "get_state"):
            raise TypeError(
                f"stream must be that of streaming.batch_stream, got {type(stream).__name__}: "
                "for batches of your own call make_update_step's update"
            )
        first = stream.get_state()["next_index"]
        batch = next(stream)
        placed = place(batch)
        if first != int(state.step):  # waits for the device, which by now has a batch to go on
            raise ValueError(
                f"the stream is at step {first} and the state at {int(state.step)}: "
                "set the stream to the step of the state"
            )
        of_steps = []
        for s in range(steps):
            with labels.over(batch):
                state, metrics = compiled(state, placed, key)
            of_steps.append(metrics)
            if s + 1 < steps:
                batch = next(stream)
                placed = place(batch)
            if s >= _IN_FLIGHT:  # or the batches of many steps would pile up on the device
                jax.block_until_ready(of_steps[s - _IN_FLIGHT])
        return state, jax.tree.map(lambda *m: jnp.stack(m), *of_steps)

    return train
