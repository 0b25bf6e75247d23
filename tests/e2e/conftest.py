"""A platform started with `drw up`, and a collector of its traces."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest

from drw.local.paths import PlatformPaths
from e2e.collector import DoubleCollector, collecting
from e2e.platform import Platform
from e2e.templates.double_system import double_system
from e2e.templates.examples import declarations, secret_names, write_functions
from support.parts import short_folder


@pytest.fixture(scope="session")
def collector() -> Iterator[DoubleCollector]:
    """The collector of the platform's traces."""
    with collecting() as collector:
        yield collector


@pytest.fixture(scope="session")
def system() -> Iterator[str]:
    """The address of the double that workflows call."""
    with double_system() as address:
        yield address


@pytest.fixture(scope="session")
def platform(collector: DoubleCollector, system: str) -> Iterator[Platform]:
    """A platform shared by all tests, with mutual TLS between its processes; other tests start theirs without."""
    with short_folder() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")  # milliseconds between exports of spans
        platform = Platform(folder / "data")
        platform.data.mkdir()
        patch.setenv("PYTHONPATH", str(folder))
        for name in secret_names():
            patch.setenv(name, f"value of {name}")
        functions = [f'{name} = "{path}"' for name, path in write_functions(folder).items()]
        settings = [
            f'otlp_endpoint = "{collector.url}"',
            f'services.discovery.allowed_endpoints = ["unix:{PlatformPaths(platform.data).engine}"]',
            f"services.orchestration.functions = {{ {', '.join(functions)} }}",
            *declarations(system),
        ]
        (platform.data / "drw.toml").write_text("\n".join(settings))
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
