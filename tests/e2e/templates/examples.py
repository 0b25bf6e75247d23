"""The templates that documentation pages show, with the commands, functions and output of their sections.

A template is a block of YAML that starts with `format: 1`. In its section, up to the next heading of the second level:

- commands `drw workflows run NAME` and `drw schedules` start a run; without one, the run has no inputs
- commands `drw runs approve`, `reject` and `signal` follow, where `RUN` stands for the run
- blocks of Python are functions that the platform registers
- a block of JSON is the output of the run

Templates call a double in place of the hosts that they name. Its secrets and the events of the pages are declared.

A new example needs no change here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from support.json_types import Json

ROOT = Path(__file__).parents[3]
SECTION = re.compile(r"^## ", re.M)
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
NAME = re.compile(r"^name: (\w+)$", re.M)
FUNCTION = re.compile(r"^(?:async )?def (\w+)\(arguments\b", re.M)
COMMAND = re.compile(r"^drw .*(?:(?<=\\)\n.*)*$", re.M)
START = re.compile(r"drw (?:workflows run|schedules create|schedules backfill) ")
FOLLOW = re.compile(r"drw runs (?:approve|reject|signal) RUN ")
HOST = re.compile(r"https?://[\w.-]+(?::\d+)?")
SECRET = re.compile(r"\$\{secrets\.(\w+)\}")
EVENT = re.compile(r'^\[workflow\.events\."([^"]+)"\]', re.M)
IMPORTS = "from __future__ import annotations\n\nfrom collections.abc import Mapping\nfrom typing import Any\n"


@dataclass(frozen=True)
class Example:
    """A template of a page."""

    page: Path
    name: str
    source: str
    commands: tuple[str, ...]
    output: Json

    @property
    def starts(self) -> list[str]:
        """The commands that start a run of it."""
        own = [command for command in self.commands if START.match(command) and self._is_own(command)]
        return own or [f"drw workflows run {self.name}"]

    @property
    def follows(self) -> list[str]:
        """The commands that the run waits for."""
        return [command for command in self.commands if FOLLOW.match(command)]

    def _is_own(self, command: str) -> bool:
        return not command.startswith("drw workflows run ") or command.split()[3] == self.name


def examples() -> list[Example]:
    """Return the templates of all pages."""
    pages = sorted((ROOT / "docs").rglob("*.md"))
    return [example for page in pages for section in _sections(page) for example in _examples(page, section)]


def write_functions(folder: Path) -> dict[str, str]:
    """Write the functions of all pages as a module; return the setting that registers them."""
    blocks = [
        text
        for page in sorted((ROOT / "docs").rglob("*.md"))
        for language, text in BLOCK.findall(page.read_text(encoding="utf-8"))
        if language == "python" and FUNCTION.search(text)
    ]
    (folder / "documented_functions.py").write_text("\n\n".join([IMPORTS, *blocks]), encoding="utf-8")
    names = [name for text in blocks for name in FUNCTION.findall(text)]
    return {name: f"documented_functions:{name}" for name in names}


def declarations(system: str) -> list[str]:
    """Return the settings that let templates call a double, with their secrets in environment variables."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in sorted((ROOT / "docs").rglob("*.md")))
    events = ", ".join(f'"{name}" = {{}}' for name in dict.fromkeys(EVENT.findall(text)))
    fields = f'org = "local", hosts = ["{system}"]'
    secrets = ", ".join(f'{{ name = "{name}", variable = "{name}", {fields} }}' for name in secret_names())
    return [
        f'workflow.http_hosts = ["{system}"]',
        f"workflow.events = {{ {events} }}",
        f"workflow.secrets = [{secrets}]",
    ]


def secret_names() -> list[str]:
    """Return the secrets that the templates name."""
    return list(dict.fromkeys(name for example in examples() for name in SECRET.findall(example.source)))


def _sections(page: Path) -> list[str]:
    return SECTION.split(page.read_text(encoding="utf-8"))


def _examples(page: Path, section: str) -> Iterator[Example]:
    blocks = BLOCK.findall(section)
    sources = [text for language, text in blocks if language == "yaml" and text.startswith("format: 1\n")]
    commands = tuple(command for language, text in blocks if not language for command in COMMAND.findall(text))
    outputs = [json.loads(text) for language, text in blocks if language == "json"]
    for source in sources:
        (name,) = NAME.findall(source)
        yield Example(page, name, source, commands, outputs[0] if outputs and len(sources) == 1 else None)
