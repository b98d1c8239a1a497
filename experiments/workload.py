"""What the benchmark trains: networks on random images, and the work that a step is."""

import dataclasses
import functools
import math
import pathlib
import time

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dann_jax import batches, networks, programs, schedules, training
from experiments.settings import NETWORKS

__all__ = ["EXAMPLES", "SIZES", "Subject", "Training", "flop_of_step", "preprocess"]

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


def flop_of_step(model: networks.DannModel, pixels: int, batch: int) -> int:
    """Returns the floating-point operations of one update, counted from the layers' shapes.

    A convolution or fully connected layer whose kernel has n weights for each output channel makes
    n multiply-adds for each value of its output, of 2 operations each, three times: forward, for
    the gradient of its weights, and for that of its input. The first layer of G_f, whose input are
    images, has no need of the last. G_f and G_d see the whole batch, G_y its source half. All else
    (biases, ReLU, pooling, losses, the optimiser) is left out. So it is in whatever form a layer is
    computed: one with fewer operations, such as Winograd's, may seem to go beyond the hardware.

    Args:
      model: G_f, G_y and G_d, Linen modules.
      pixels: Height and width of the images.
      batch: Examples of a step.
    """

    def layers(module, x):
        """Returns the multiply-adds of each layer in order, and the output."""
        found = []

        def seen(call, args, kwargs, context):
            y = call(*args, **kwargs)
            kernel = context.module.variables.get("params", {}).get("kernel")
            if kernel is not None and context.method_name == "__call__":
                size = y.size
                if getattr(context.module, "pool", None) is not None:  # it is smaller than that
                    n, *sides, _ = args[0].shape
                    if context.module.padding == "VALID":
                        sides = [s - k + 1 for s, k in zip(sides, kernel.shape, strict=False)]
                    size = n * math.prod(sides) * kernel.shape[-1]
                found.append(kernel.size // kernel.shape[-1] * size)
            return y

        with nn.intercept_methods(seen):
            y, _ = jax.eval_shape(module.init_with_output, jax.random.key(0), x)
        return found, y

    image = jax.ShapeDtypeStruct((batch, pixels, pixels, 3), jnp.float32)
    of_f, f = layers(model.feature_extractor, image)
    half = jax.ShapeDtypeStruct((batch // 2, *f.shape[1:]), f.dtype)
    of_y, _ = layers(model.label_predictor, half)
    of_d, _ = layers(model.domain_classifier, f)
    return 2 * (3 * sum(of_f + of_y + of_d) - of_f[0])


@dataclasses.dataclass(frozen=True)
class Subject:
    """A network, and random images of its size to train it on."""

    model: networks.DannModel
    pixels: int
    arrays: batches.DomainArrays  # on the first device

    @classmethod
    def of(cls, network: str, pixels: int, dtype: str) -> "Subject":
        """Draws the images.

        Args:
          network: Name of one of ``config.NETWORKS``.
          pixels: Height and width of the images.
          dtype: Of the computation, ``'float32'`` or ``'bfloat16'``.
        """
        classes = CLASSES.get(network, 10)
        model = NETWORKS[network](classes=classes, dtype=jnp.dtype(dtype))
        draw = np.random.default_rng(0)
        image = functools.partial(draw.integers, 256, dtype=np.uint8)
        shape = EXAMPLES, pixels, pixels, 3
        labels = draw.integers(classes, size=EXAMPLES, dtype=np.int32)
        arrays = batches.DomainArrays(image(size=shape), labels, image(size=shape))
        return cls(model, pixels, programs.replicate(arrays, jax.local_devices()[:1]))


def _lam(step):
    return schedules.lambda_p(schedules.progress(step, HORIZON))


def _mu(step):
    return schedules.mu_p(schedules.progress(step, HORIZON))


_OPTIMIZER = training.make_optimizer(_mu)
# Compiled once for all programs of a network: its initialisation is not what is measured.
_init_state = jax.jit(training.init_state, static_argnums=(0, 1))
_init_states = jax.jit(programs.init_states, static_argnums=(0, 1))


class Training:
    """A program of ours and its state, which each call replaces."""

    def __init__(
        self,
        subject: Subject,
        batch: int,
        *,
        devices: list[jax.Device],
        keys: int | None = None,
    ):
        """Initialises the state.

        Args:
          subject: What to train.
          batch: Examples a step and key, over all devices, half source and half target.
          devices: Devices to train on.
          keys: Number of keys to train as one program of ``programs.make_study_steps``; None for
            one key, and ``programs.make_train_steps``.

        Raises:
          MemoryError: The state would not fit.
          ValueError: The batch does not split evenly over the devices.
        """
        make_update = functools.partial(training.make_update_step, subject.model, _OPTIMIZER, _lam)
        setting = {
            "examples": (EXAMPLES, EXAMPLES),
            "batch": (batch // 2, batch // 2),
            "preprocess": preprocess,
            "devices": devices,
        }
        self.key, image = jax.random.key(0), jnp.zeros([2, subject.pixels, subject.pixels, 3])
        if keys is None:
            self.program = programs.make_train_steps(make_update, **setting)
            init = _init_state
        else:
            self.program = programs.make_study_steps(
                lambda settings, axis_name: make_update(axis_name=axis_name), **setting
            )
            self.key = jax.random.split(self.key, keys)
            init = _init_states
        init = functools.partial(init, subject.model, _OPTIMIZER)
        state = jax.tree.leaves(jax.eval_shape(init, self.key, image))
        _check_room(sum(a.size * a.dtype.itemsize for a in state), devices[0])
        self.devices = devices
        self.state = programs.replicate(init(self.key, image), devices)
        self.arrays = subject.arrays
        if len(devices) > 1:
            self.arrays = programs.replicate(subject.arrays, devices)

    def __call__(self, steps: int) -> None:
        """Makes ``steps`` updates in one call of the program, and waits for them."""
        self.state, metrics = self.program(self.state, self.arrays, self.key, steps)
        jax.block_until_ready((self.state, metrics))

    def prepare(self, steps: int) -> dict[str, float | int | str]:
        """Compiles the program of calls of so many steps, makes the first one, and returns costs.

        Returns:
          Seconds of lowering (tracing) and compilation, and the peak of memory in bytes: that of
          the device if it counts and the peak is a new one, else the sum of what XLA says that
          arguments, outputs and temporaries of the program take, donated arguments once.

        Raises:
          MemoryError: The program would not fit.
        """
        device = self.devices[0]
        peak_before = _memory(device).get("peak_bytes_in_use", 0)
        begin = time.perf_counter()
        lowered = self.program.lower(self.state, self.arrays, self.key, steps)
        middle = time.perf_counter()
        compiled = lowered.compile()
        end = time.perf_counter()
        account = compiled.memory_analysis()
        added = account.output_size_in_bytes - account.alias_size_in_bytes
        added += account.temp_size_in_bytes
        _check_room(added, device)
        self(steps)
        peak, source = account.argument_size_in_bytes + added, "XLA's account of the program"
        if (of_device := _memory(device).get("peak_bytes_in_use", 0)) > peak_before:
            peak, source = of_device, "device"
        return {
            "lowering_seconds": middle - begin,
            "compile_seconds": end - middle,
            "peak_memory_bytes": peak,
            "peak_memory_from": source,
        }


def preprocess(batch: batches.DomainBatch) -> batches.DomainBatch:
    """Returns a batch with images from -0.5 to 0.5, float32."""

    def scaled(image):
        return image.astype(jnp.float32) / 255 - 0.5

    return batch._replace(
        source_image=scaled(batch.source_image), target_image=scaled(batch.target_image)
    )


def _memory(device):
    """Returns the statistics of a device's memory, where it keeps them."""
    return device.memory_stats() or {}


def _check_room(needed, device):
    """Raises where memory would not do: a CPU's process would be killed rather than told."""
    stats = _memory(device)
    free = None
    if "bytes_limit" in stats:
        free = stats["bytes_limit"] - stats["bytes_in_use"]
    elif pathlib.Path("/proc/meminfo").exists():
        lines = pathlib.Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if "MemAvailable" in line)
    if free is not None and needed > free:
        raise MemoryError(f"needs {needed / 1e9:.1f} GB more, {free / 1e9:.1f} GB are free")
