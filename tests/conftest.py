"""Eight CPU devices for every test, so that the parallel paths run anywhere; warnings are errors (pyproject.toml)."""

import gc
import os
from pathlib import Path

# Eight devices on a few cores: collectives of unawaited steps would starve one another without enough threads.
os.environ.setdefault("PJRT_NPROC", "32")
os.environ.setdefault("MPLBACKEND", "Agg")
# Most of the suite's time is compilation, and most programs come again: in other tests, in subprocesses, next time.
_CACHE = Path(__file__).parents[1] / ".cache" / "jax"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)


@pytest.fixture(autouse=True, scope="module")
def programs_of_one_module():
    """Compiled programs are forgotten after each module: thousands of them exhaust a process's memory maps."""
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture(scope="module")
def compile_quickly():
    """For modules that compile much and compute little: whole runs of the command line, layouts of many devices."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def pytest_collection_modifyitems(config, items):
    """Deselect `slow` unless asked for by `-m`; skip `gpu` where there is none."""
    if not config.option.markexpr:
        slow = [item for item in items if "slow" in item.keywords]
        items[:] = [item for item in items if "slow" not in item.keywords]
        config.hook.pytest_deselected(items=slow)
    if jax.default_backend() != "gpu":
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="needs a GPU"))
