"""Four simulated CPU devices and strict shapes, set before JAX is used."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "0"  # nothing of a test is kept for the next
_FLAG = "--xla_force_host_platform_device_count"
if _FLAG not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FLAG}=4".strip()

import jax  # noqa: E402
import pytest  # noqa: E402

# [n, 1] against [n] must be an error, not an [n, n] matrix.
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def devices():
    """Four devices; the tests that need them are skipped where there are fewer."""
    if jax.local_device_count() < 4:
        pytest.skip("needs four devices")
    return jax.local_devices()[:4]


@pytest.fixture(scope="module")
def quick_compilation():
    """Spends little on optimising compiled programs, for tests that run them once or twice."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Prepares 40 training and 20 test images of each of digits and digits_m."""
    from dann_jax.datasets.digits import digits_dataset_builder
    from dann_jax.datasets.digits_m import digits_m_dataset_builder

    few = {"train": (4,) * 10, "test": (2,) * 10}
    with pytest.MonkeyPatch.context() as patch:
        for module in (digits_dataset_builder, digits_m_dataset_builder):
            patch.setattr(module.Builder, "CLASS_COUNTS", few)
        yield tmp_path_factory.mktemp("data")


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Lets no test download anything."""
    from dann_jax.datasets import source_files

    def fetch(url, path):
        raise OSError("no network in tests")

    monkeypatch.setattr(source_files, "fetch", fetch)
