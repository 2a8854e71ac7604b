"""Marks of the host tests."""

import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "smollm2: needs the pretrained host smollm2-135m (93 MB, fetched once)")
