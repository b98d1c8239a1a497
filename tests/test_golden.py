"""Fifty updates of each network give the bits they gave before, on the same kind of machine."""

import jax
import numpy as np
import pytest
from golden import CASES, machine, stored, trained

from dann_jax.digests import digest
from experiments.settings import NETWORKS

QUICK = "mnist", "office_per_domain"


def test_every_network_has_a_golden_digest():
    assert CASES.keys() == NETWORKS.keys()
    assert all(digests.keys() == CASES.keys() for digests in stored().values())


@pytest.mark.parametrize(
    "name",
    [
        # Ten to forty seconds each, but for a few.
        pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
        for name in CASES
    ],
)
def test_fifty_updates_have_the_golden_digest(name):
    expected = stored().get(machine())
    if expected is None:
        pytest.skip(f"no golden digests for {machine()}: write them with python -m tests.golden")
    every = trained(name)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(every))
    assert digest(every) == expected[name]
