"""A rich console that is safe for untrusted text."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from drw.cli.escaping import visible


class SafeConsole(Console):
    """A console that escapes control characters and does not expand emoji codes."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(visible(text), **options)
