"""Types of JSON documents and of the fields of messages."""

from __future__ import annotations

from typing import Any

Json = Any
"""A JSON value of any type, or the value of a field whose name the caller chooses."""

JsonObject = dict[str, Any]
"""A JSON object whose members a test reads by name."""
