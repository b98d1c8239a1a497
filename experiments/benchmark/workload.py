"""What the benchmark trains: networks on random images."""

import dataclasses
import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dann_jax import DannModel, lambda_p, make_optimizer, make_update_step, mu_p, progress
from dann_jax.batches import DomainArrays, DomainBatch
from dann_jax.programs import make_study_steps, make_train_steps, replicate
from dann_jax.training import init_state
from experiments.benchmark import machine
from experiments.settings import NETWORKS

__all__ = ["EXAMPLES", "HORIZON", "SIZES", "Subject", "Training", "preprocess"]

SIZES = {  # of the images that a network is measured with, pixels
    "mnist": (28, 32),
    "mnist_batch_norm": (32,),
    "svhn": (32,),
    "gtsrb": (40,),
    "office_alexnet": (227,),
}
CLASSES = {"gtsrb": 43, "office_alexnet": 31}  # 10 for the others
EXAMPLES = 2048  # random images of each domain, on the device
HORIZON = 10_000  # updates at which the schedules end


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """A network, and random images of its size to train it on."""

    model: DannModel
    pixels: int
    arrays: DomainArrays  # on the first device

    @classmethod
    def of(cls, network: str, pixels: int, dtype: str) -> "Subject":
        """Returns a network and its images.

        Args:
          network: Name of one of ``settings.NETWORKS``.
          pixels: Height and width of the images.
          dtype: Of the computation, ``'float32'`` or ``'bfloat16'``.
        """
        classes = CLASSES.get(network, 10)
        model = NETWORKS[network](classes=classes, dtype=jnp.dtype(dtype))
        draw = np.random.default_rng(0)
        image = functools.partial(draw.integers, 256, dtype=np.uint8)
        shape = EXAMPLES, pixels, pixels, 3
        labels = draw.integers(classes, size=EXAMPLES, dtype=np.int32)
        arrays = DomainArrays(image(size=shape), labels, image(size=shape))
        return cls(model, pixels, replicate(arrays, jax.local_devices()[:1]))


def _lam(step):
    return lambda_p(progress(step, HORIZON))


_OPTIMIZER = make_optimizer(lambda step: mu_p(progress(step, HORIZON)))
# Compiled once for all programs of a network: the initialization is not what is measured.
_init_state = jax.jit(init_state, static_argnums=(0, 1))


class Training:
    """A program of ours and its state, which each call replaces."""

    def __init__(
        self,
        subject: Subject,
        batch: int,
        *,
        devices: list[jax.Device],
        keys: int | None = None,
        program: Any = None,
    ):
        """Initializes the state.

        Args:
          subject: What to train.
          batch: Examples a step and key, over all devices, half source and half target.
          devices: Devices to train on.
          keys: Number of keys to train as one program of ``make_study_steps``; None for one key,
            and ``make_train_steps``.
          program: That of an earlier training of the same kind, so as not to compile it again.

        Raises:
          MemoryError: The state does not fit.
          ValueError: The batch does not split evenly over the devices.
        """
        self.devices = devices
        self.key = key = jax.random.key(0)
        if keys is not None:
            self.key = jax.random.split(key, keys)
        self.program = program or _program(subject.model, batch, devices, many=keys is not None)
        image = jnp.zeros([2, subject.pixels, subject.pixels, 3])
        state = _init_state(subject.model, _OPTIMIZER, key, image)
        size = sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(state))
        machine.check_room((keys or 1) * size, devices[0])
        if keys is not None:  # the same for each: initializing many takes longer to compile
            state = jax.tree.map(lambda a: jnp.stack([a] * keys), state)
        self.state = replicate(state, devices)
        self.arrays = subject.arrays if len(devices) == 1 else replicate(subject.arrays, devices)

    def __call__(self, steps: int) -> None:
        """Makes ``steps`` updates in one call of the program, and waits for them."""
        self.state, metrics = self.program(self.state, self.arrays, self.key, steps)
        jax.block_until_ready((self.state, metrics))

    def prepare(self, steps: int) -> dict[str, float | int | str]:
        """Compiles the program for calls of so many steps, makes the first call, returns costs.

        Returns:
          Seconds of lowering (tracing) and of compilation, and the peak of memory in bytes: that
          of the device if it counts and the peak is a new one; otherwise XLA's account of the
          arguments, outputs and temporaries of the program, donated arguments once.

        Raises:
          MemoryError: The program does not fit.
        """
        device = self.devices[0]
        peak_before = machine.peak_memory(device)
        begin = time.perf_counter()
        lowered = self.program.lower(self.state, self.arrays, self.key, steps)
        middle = time.perf_counter()
        compiled = lowered.compile()
        end = time.perf_counter()
        account = compiled.memory_analysis()
        added = account.output_size_in_bytes - account.alias_size_in_bytes
        added += account.temp_size_in_bytes
        machine.check_room(added, device)
        self(steps)
        peak, origin = account.argument_size_in_bytes + added, "XLA's account of the program"
        if (of_device := machine.peak_memory(device)) > peak_before:
            peak, origin = of_device, "device"
        return {
            "lowering_seconds": middle - begin,
            "compile_seconds": end - middle,
            "peak_memory_bytes": peak,
            "peak_memory_from": origin,
        }


def _program(model, batch, devices, *, many):
    """Returns the compiled training of one key, or of many."""
    make_update = functools.partial(make_update_step, model, _OPTIMIZER, _lam)
    setting = {
        "examples": (EXAMPLES, EXAMPLES),
        "batch": (batch // 2, batch // 2),
        "preprocess": preprocess,
        "devices": devices,
    }
    if many:
        return make_study_steps(
            lambda settings, axis_name: make_update(axis_name=axis_name), **setting
        )
    return make_train_steps(make_update, **setting)


def preprocess(batch: DomainBatch) -> DomainBatch:
    """Returns a batch with images from -0.5 to 0.5, float32."""

    def scaled(image):
        return image.astype(jnp.float32) / 255 - 0.5

    return batch._replace(
        source_image=scaled(batch.source_image), target_image=scaled(batch.target_image)
    )
