"""The console of rich, made safe for text from elsewhere."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from drw.cli.terminal import visible


class SafeConsole(Console):
    """A console that sends no control character of a text to the terminal, and turns no `:0:` into an emoji."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(visible(text), **options)
