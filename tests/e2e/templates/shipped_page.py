"""The commands of the page on shipped templates, and the check that a document rests on its quotes."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

from e2e.platform import DRW, Platform
from support.json_types import Json, JsonObject

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs/how-to/use/shipped-templates.md"
DEMO = ROOT / "src/drw/demo"
COMMAND = re.compile(r"^drw workflows run (\w+)(?: .*(?:(?<=\\)\n.*)*)?$", re.M)
QUOTE = re.compile(r"> (?:… )?(?P<quote>.*?)(?: …)?\n> — (?P<source>.*), page (?P<page>\d+)")
NOTES = ("#", "_Not supported:", "_Of the beginning", "Passages:", "No news.")


def commands() -> dict[str, str]:
    """Return the command of each template."""
    return {match[1]: match[0] for match in COMMAND.finditer(PAGE.read_text(encoding="utf-8"))}


def run_template(platform: Platform, template: str, key: str = "", **values: str) -> JsonObject:
    """Run the command of the page for a template, with values for its placeholders; return the newest run."""
    command = commands()[template]
    for placeholder, value in values.items():
        assert placeholder in command
        command = command.replace(placeholder, value)
    result = subprocess.run(
        ["bash", "-c", command], cwd=ROOT, env=environment(platform, key), capture_output=True, text=True, timeout=280
    )
    assert result.returncode == 0, f"{command}\n{result.stdout}{result.stderr}"
    (run,) = platform.json("runs", "list", "--template", template, "--limit", "1")
    return show(platform, run["id"])


def environment(platform: Platform, key: str = "") -> Mapping[str, str]:
    """Return the environment of a person: that of the administrator, or of a key."""
    path = {"PATH": f"{Path(DRW).parent}:{os.environ['PATH']}", "COLUMNS": "200"}
    if key:
        return {**path, "DRW_URL": platform.credentials["url"], "DRW_API_KEY": key}
    return {**path, "DRW_DATA_DIR": str(platform.data)}


def show(platform: Platform, run: str) -> JsonObject:
    """Return a run."""
    shown: JsonObject = platform.json("runs", "show", run)
    return shown


def check_document(text: str) -> list[str]:
    """Check that each statement of a document is quoted or marked as not supported; return the names of the sources.

    Each quote must occur in its source as it is written there, apart from white space.
    """
    paragraphs = text.strip().split("\n\n")
    sources = []
    for paragraph, following in zip(paragraphs, [*paragraphs[1:], ""], strict=True):
        if match := QUOTE.fullmatch(paragraph):
            assert _words(match["quote"]) in _words(source_text(match["source"])), paragraph
            sources.append(match["source"])
        elif not paragraph.startswith(NOTES):
            assert QUOTE.fullmatch(following), f"{paragraph!r} has neither a quote nor a mark: {text}"
    return sources


def check_sentences(sentences: Json) -> int:
    """Check that exactly the supported sentences have a quote of their source; return the number of sentences."""
    for sentence in sentences:
        assert bool(sentence["quote"]) == sentence["supported"], sentence
        if sentence["supported"]:
            assert sentence["quote"] in source_text(sentence["title"]), sentence
    return len(sentences)


def source_text(name: str) -> str:
    """Return the text of a document that comes with the platform."""
    (file,) = DEMO.rglob(name)
    return file.read_text(encoding="utf-8")


def _words(text: str) -> str:
    return " ".join(text.split())
