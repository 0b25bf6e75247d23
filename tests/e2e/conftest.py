"""A platform, started with `drw up`, and a collector for its traces."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest

from support.collector import DoubleCollector, collecting
from support.parts import short_folder
from support.platform import Platform


@pytest.fixture(scope="session")
def collector() -> Iterator[DoubleCollector]:
    """The collector of the platform's traces."""
    with collecting() as found:
        yield found


@pytest.fixture(scope="session")
def platform(collector: DoubleCollector) -> Iterator[Platform]:
    """A platform for all tests."""
    with short_folder() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")  # export interval of spans, in milliseconds
        found = Platform(folder / "data")
        found.data.mkdir()
        (found.data / "drw.toml").write_text(f'otlp_endpoint = "{collector.url}"\n')
        try:
            print(found.run("up", "--detach", "--port", "0").stdout)
            yield found
        finally:
            found.run("down")


@pytest.fixture(scope="session")
def client(platform: Platform) -> Iterator[openai.OpenAI]:
    """The official OpenAI client of the platform."""
    with platform.client() as client:
        yield client
