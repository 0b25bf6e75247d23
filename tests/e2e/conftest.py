"""A whole platform, started by the command that people use."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest

from support.parts import short_folder
from support.platform import Platform


@pytest.fixture(scope="session")
def platform() -> Iterator[Platform]:
    """A platform for the whole run of tests."""
    with short_folder() as folder:
        found = Platform(folder / "data")
        try:
            print(found.run("up", "--detach", "--port", "0").stdout)
            yield found
        finally:
            found.run("down")


@pytest.fixture(scope="session")
def client(platform: Platform) -> Iterator[openai.OpenAI]:
    """The official OpenAI client, pointed at the platform."""
    with platform.client() as client:
        yield client
