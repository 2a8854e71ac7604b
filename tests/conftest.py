"""Programs that compile fast, once for all workers, and bounded memory in each worker."""

import os
from collections.abc import Iterator

import pytest

# Compilation is most of what tests do; these save 30 to 45% of it.
FAST = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"


def pytest_configure(config: pytest.Config) -> None:
    """Programs are compiled once for all workers and for the processes that tests start."""
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FAST}".strip()
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
