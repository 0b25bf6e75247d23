"""A platform started with `drw up`, and a collector of its traces."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest

from e2e.collector import DoubleCollector, collecting
from e2e.platform import Platform
from support.parts import short_folder


@pytest.fixture(scope="session")
def collector() -> Iterator[DoubleCollector]:
    """The collector of the platform's traces."""
    with collecting() as collector:
        yield collector


@pytest.fixture(scope="session")
def platform(collector: DoubleCollector) -> Iterator[Platform]:
    """A platform shared by all tests, with mutual TLS between its processes; other tests start theirs without."""
    with short_folder() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")  # milliseconds between exports of spans
        platform = Platform(folder / "data")
        platform.data.mkdir()
        (platform.data / "drw.toml").write_text(f'otlp_endpoint = "{collector.url}"\n')
        try:
            print(platform.run("up", "--detach", "--mtls", "--port", "0").stdout)
            yield platform
        finally:
            platform.run("down")


@pytest.fixture(scope="session")
def client(platform: Platform) -> Iterator[openai.OpenAI]:
    """The official OpenAI client of the platform."""
    with platform.client() as client:
        yield client
