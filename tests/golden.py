"""The digests of 50 updates of each network, on the kinds of processor that they were made on.

Numbers on a CPU depend on its instructions and on the number of threads, so the file has an entry
for each machine. Where it has none, or after a change that is meant to change numbers, write it:

    python -m tests.golden
"""

import functools
import importlib
import json
import pathlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dann_jax import (
    DomainArrays,
    init_state,
    kernels,
    lambda_p,
    make_optimizer,
    make_train_steps,
    make_update_step,
    mu_p,
    progress,
)
from dann_jax.backbones.efficientnet_lite import EfficientNetLite, Stage
from dann_jax.datasets import draws
from dann_jax.digests import digest
from experiments import runtime
from experiments.settings import NETWORKS

STEPS = 50
CLASSES = 3
PATH = pathlib.Path(__file__).with_name("golden.json")
SMALL = EfficientNetLite(stages=(Stage(1, 3, 1, 8), Stage(1, 5, 2, 8)))


class Case(NamedTuple):
    """A network, and what makes its updates quick."""

    side: int  # of the images, pixels
    batch: int = 2  # examples of each domain
    mu0: float = 0.01
    options: Mapping[str, Any] = MappingProxyType({})


CASES = {
    "mnist": Case(28, 4),
    "mnist_batch_norm": Case(28, 4),
    "svhn": Case(16),
    "svhn_batch_norm": Case(16),
    "gtsrb": Case(40),
    "compact": Case(28, 4),
    "compact_convolutional": Case(28, 4),
    "office_alexnet": Case(224, 1, 1e-5),
    "office": Case(16, 4, options={"backbone": SMALL}),
    "office_batch_norm": Case(8, 4, options={"backbone": None}),
    "office_per_domain": Case(8, 4, options={"backbone": None}),
}


def machine() -> str:
    """Returns the name of this machine in the file."""
    plain = ", plain XLA" if kernels.plain_xla() else ""
    return f"{runtime.machine()}, jax {jax.__version__}, jaxlib {jax.lib.__version__}{plain}"


def stored() -> dict[str, dict[str, str]]:
    """Returns the digests of each machine, by network."""
    return json.loads(PATH.read_text()) if PATH.exists() else {}


def images(name, count, side):
    draw = draws.uniform(0, f"golden {name}", 0, count, count=side * side * 3)
    return draws.choice(draw, 256).astype(np.uint8).reshape(count, side, side, 3)


def scaled(batch):
    source, target = (
        (x.astype(jnp.float32) - 128) / 128 for x in (batch.source_image, batch.target_image)
    )
    return batch._replace(source_image=source, target_image=target)


def trained(name: str) -> Any:
    """Returns the state of a network after its updates, and their metrics."""
    case = CASES[name]
    model = NETWORKS[name](classes=CLASSES, dtype=jnp.dtype("float32"), **case.options)
    optimizer = make_optimizer(lambda step: mu_p(progress(step, STEPS), case.mu0))
    arrays = DomainArrays(
        images("source", 7, case.side),
        np.arange(7, dtype=np.int32) % CLASSES,
        images("target", 5, case.side),
    )
    sample = jnp.zeros([2, case.side, case.side, 3])
    state = jax.jit(functools.partial(init_state, model, optimizer))(jax.random.key(0), sample)
    train = make_train_steps(
        functools.partial(
            make_update_step, model, optimizer, lambda step: lambda_p(progress(step, STEPS))
        ),
        examples=(7, 5),
        batch=(case.batch, case.batch),
        preprocess=scaled,
        devices=jax.devices()[:1],
    )
    return train(state, arrays, jax.random.key(1), STEPS)


def main() -> None:
    """Writes the digests of this machine."""
    jax.config.update("jax_platforms", "cpu")
    importlib.import_module("tests.conftest")  # as many simulated devices as in the tests
    every = stored() | {machine(): {name: digest(trained(name)) for name in CASES}}
    PATH.write_text(json.dumps(dict(sorted(every.items())), indent=1) + "\n")
    print(f"wrote {len(CASES)} digests for {machine()} to {PATH}")


if __name__ == "__main__":
    main()
