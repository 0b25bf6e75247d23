"""Terminal output escapes control characters of external texts."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from pathlib import Path

import pytest

import drw.cli
from drw.cli import options
from drw.cli.terminal import console, stream
from support.json_types import Json

CONTROL_CHARACTERS = "a\x1b]0;title\x07\x1b[31m\r\x9b2J\x7f\u202egnp.\u2066 :0: \tb\nc"
ESCAPED = "a\\x1b]0;title\\x07\\x1b[31m\\x0d\\x9b2J\\x7f\\u202egnp.\\u2066 :0: \tb\nc"


def write_table(text: str) -> None:
    options.write_table((text,), [(text, text)])


@pytest.mark.parametrize(
    "write",
    [options.write, options.warn, stream, console().print, write_table, lambda text: options.write_table((), [], text)],
)
def test_control_characters_are_escaped(write: Callable[[str], object], capsys: pytest.CaptureFixture[str]) -> None:
    write(CONTROL_CHARACTERS)
    captured = capsys.readouterr()
    text = captured.out + captured.err
    assert not {c for c in text if not c.isprintable()} - {"\n", "\t"}
    assert ESCAPED.split()[0] in text
    assert ":0:" in text


def test_rich_is_used_only_if_more_than_the_last_column_wraps(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(options, "_write_folded_table", lambda *_: print("rich"))
    monkeypatch.setattr(options, "width", lambda: 40)
    text = "words that go on for longer than there is room"
    options.write_table(("NAME", "WHAT"), [("a", text), ("long", "x" * 40), ("é…", "")])
    options.write_table(("NAME", "WHAT"), [(text, "x")])
    options.write_table(("NAME",), [("雪",)])
    lines = [
        *("NAME  WHAT", "a     words that go on for longer than", "      there is room"),
        *(f"long  {'x' * 34}", f"      {'x' * 6}", "é…", "rich", "rich"),
    ]
    assert capsys.readouterr().out.splitlines() == lines


def test_text_without_control_characters_is_unchanged(capsys: pytest.CaptureFixture[str]) -> None:
    stream("Über 5 % — 雪 👍🏽 שלום\n\tend")
    assert capsys.readouterr().out == "Über 5 % — 雪 👍🏽 שלום\n\tend"


@pytest.mark.parametrize("write", [options.write_json, options.write_line])
def test_json_escapes_control_characters(write: Callable[[Json], None], capsys: pytest.CaptureFixture[str]) -> None:
    write({CONTROL_CHARACTERS: [CONTROL_CHARACTERS]})
    text = capsys.readouterr().out
    assert not {c for c in text if not c.isprintable()} - {"\n"}
    assert json.loads(text) == {CONTROL_CHARACTERS: [CONTROL_CHARACTERS]}


WRITERS = {"print", "sys.stdout.write", "typer.echo", "Console", "SafeConsole"}
ALLOWED = {
    "generate.py": "a developer's command that writes the project's own text",
    "main.py": "the version",
    "options.py": "the functions themselves",
    "terminal.py": "the functions themselves",
    "audit.py": "a signed note, which must not be changed",
}


def test_commands_write_only_through_these_functions() -> None:
    bypassing = set()
    for file in Path(drw.cli.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in WRITERS:
                bypassing.add(file.name)
    assert bypassing == ALLOWED.keys()
