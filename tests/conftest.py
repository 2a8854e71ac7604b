"""One compilation cache for all workers, and bounded memory in each."""

import os
from collections.abc import Iterator

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Programs are compiled once for all workers and for the processes that tests start."""
    assert config.cache is not None
    folder = str(config.cache.mkdir("xla"))
    os.environ |= {"JAX_COMPILATION_CACHE_DIR": folder, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5"}
    import jax

    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


@pytest.fixture(autouse=True, scope="module")
def forget_programs() -> Iterator[None]:
    """A compiled program holds memory mappings, of which Linux allows a process 65,530."""
    yield
    import jax

    jax.clear_caches()


@pytest.fixture(scope="module")
def compile_quickly() -> Iterator[None]:
    """For tiny models and many programs: compiling costs more than running."""
    import jax

    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
