"""Unmodified frameworks, such as LangChain and LlamaIndex, with the bundled models through the data plane."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from e2e.platform import Platform

ENVIRONMENTS = Path(sys.prefix) / "share" / "clients"
SCRIPTS = Path(__file__).parent / "frameworks"
OFFLINE = {"OPENAI_AGENTS_DISABLE_TRACING": "1", "LANGSMITH_TRACING": "false", "ANONYMIZED_TELEMETRY": "false"}


def encodings() -> str:
    """Return the folder with the encodings of tiktoken, which would download them: LlamaIndex contains them."""
    folders = (ENVIRONMENTS / "llama-index").glob("lib/python*/site-packages/llama_index/core/_static/tiktoken_cache")
    return str(next(folders, ""))


@pytest.mark.parametrize(
    ("environment", "script"),
    [
        ("langchain", "chats_of_langchain.py"),
        ("langchain", "responses_of_langchain.py"),
        ("langchain", "langchain_of_anthropic.py"),
        ("langchain", "openai_agents.py"),
        ("llama-index", "clients_of_llama_index.py"),
    ],
)
def test_unmodified_framework(platform: Platform, environment: str, script: str) -> None:
    if not (ENVIRONMENTS / environment).exists():
        pytest.skip("`make .venv/clients` installs the frameworks")
    python, credentials = ENVIRONMENTS / environment / "bin" / "python", platform.credentials
    result = subprocess.run(
        [str(python), str(SCRIPTS / script), credentials["url"], credentials["api_key"]],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, **OFFLINE, "TIKTOKEN_CACHE_DIR": encodings()},
    )
    assert result.returncode == 0, result.stderr[-2000:]
    errors = json.loads(result.stdout.splitlines()[-1])
    assert errors and not any(errors.values()), "\n".join(f"{name}: {error}" for name, error in errors.items() if error)
