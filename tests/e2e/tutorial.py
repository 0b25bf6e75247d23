"""Runs the commands of a documentation page and compares their output with the page.

A block starts with ```console. A line such as `ann$ drw models versions` is a command of the person `ann`; the lines
after it are its output. Identifiers, digests and times of the page stand for those of the run: each must stand for one
value, and later commands receive that value. Floating-point numbers may differ by 0.2 percent, since processors round
differently. `UPDATE_GOLDEN=1` writes the output of the run into the page.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

BLOCK = re.compile(r"(?<=^```console\n).*?(?=^```$)", re.S | re.M)
PROMPT = re.compile(r"(\w+)\$ (.+(?:(?<=\\)\n.+)*)\n?")
TOKEN = re.compile(
    r"(?P<id>\b(?:key|pro|val)_[0-9a-f]{24,32}\b|\b[0-9a-f]{12}\b|\b[0-9a-f]{64}\b)"
    r"|(?P<time>\b\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z| UTC)?)?)"
    r"|(?P<number>-?\b\d+\.\d+\b)"
)
EVENTUALLY = ("drw infer", "curl")
"""Commands without effects whose output can follow a change with a delay; they run again until it is as expected."""
SECONDS, UPDATE_SECONDS = 30.0, 5.0


@dataclass(frozen=True)
class Step:
    """A command of a person, with its expected output."""

    person: str
    command: str
    output: str

    @property
    def fails(self) -> bool:
        """Whether the page shows an error of `drw`."""
        return self.output.startswith("drw: ")


@dataclass
class Tutorial:
    """One run of the page.

    Attributes:
        folder: the working directory of the commands.
        values: the value in this run of each identifier of the page.
    """

    page: Path
    folder: Path
    values: dict[str, str] = field(default_factory=dict)

    def run(self, environment_of: Mapping[str, Mapping[str, str]]) -> None:
        """Run all commands in order; update the page if `UPDATE_GOLDEN` is set."""
        update = bool(os.environ.get("UPDATE_GOLDEN"))
        text = self.page.read_text(encoding="utf-8")
        blocks = iter([self._block(list(steps(block)), environment_of, update) for block in BLOCK.findall(text)])
        if update:
            self.page.write_text(BLOCK.sub(lambda _: next(blocks), text), encoding="utf-8")

    def _block(self, block: list[Step], environment_of: Mapping[str, Mapping[str, str]], update: bool) -> str:
        return "".join(
            f"{step.person}$ {self._known(step.command) if update else step.command}\n{output}"
            for step in block
            for output in [self._step(step, environment_of[step.person], update)]
        )

    def _known(self, command: str) -> str:
        """Return a command of the page with the identifiers of this run."""
        return TOKEN.sub(lambda match: self.values.get(match[0], match[0]), command)

    def _step(self, step: Step, environment: Mapping[str, str], update: bool) -> str:
        command = self._known(step.command)
        deadline = time.monotonic() + (UPDATE_SECONDS if update else SECONDS)
        while True:
            result = subprocess.run(
                ["bash", "-o", "pipefail", "-c", command],
                capture_output=True,
                text=True,
                timeout=120,
                cwd=self.folder,
                env=dict(environment),
            )
            output = result.stdout + result.stderr
            if output and not output.endswith("\n"):
                output += "\n"
            difference = self._difference(step.output, output)
            if not difference and bool(result.returncode) == step.fails:
                return output
            if step.command.startswith(EVENTUALLY) and time.monotonic() < deadline:
                continue
            if update:
                return output
            raise AssertionError(f"{step.person}$ {command}\n{output}\nexit code {result.returncode}; {difference}")

    def _difference(self, expected: str, actual: str) -> str:
        """Return where an output differs from that of the page; empty: nowhere. Learn the identifiers of the run."""
        learned: dict[str, str] = {}
        for want, got in zip_longest(parts(expected), parts(actual), fillvalue=("end", "")):
            if want[0] != got[0]:
                return f"expected {want[1]!r}, got {got[1]!r}"
            if not self._same(want, got, learned):
                return f"expected {want[1]!r}, got {got[1]!r}"
        self.values |= learned
        return ""

    def _same(self, want: tuple[str, str], got: tuple[str, str], learned: dict[str, str]) -> bool:
        kind, text = want
        if kind == "id":
            known = self.values | learned
            if text not in known and got[1] in known.values():
                return False
            learned.setdefault(text, known.get(text, got[1]))
            return learned[text] == got[1]
        if kind == "number":
            return abs(float(text) - float(got[1])) <= 0.002 * abs(float(text))
        return kind == "time" or text == got[1]


def steps(block: str) -> Iterator[Step]:
    """Yield the commands of a block."""
    prompts = list(PROMPT.finditer(block))
    assert prompts and not prompts[0].start(), f"the block does not start with a prompt: {block[:60]!r}"
    for match, following in zip_longest(prompts, prompts[1:]):
        yield Step(match[1], match[2], block[match.end() : following.start() if following else None])


def parts(text: str) -> Iterator[tuple[str, str]]:
    """Yield the kinds and texts of the tokens and of the words between them. Runs of spaces count as one."""
    end = 0
    for match in TOKEN.finditer(text):
        yield "text", " ".join(text[end : match.start()].split(" "))
        yield match.lastgroup or "", match[0]
        end = match.end()
    yield "text", text[end:]
