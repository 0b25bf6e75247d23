"""Labels of models in metrics, which every tenant with access to the metrics can read."""

from __future__ import annotations

import re

VERSION = re.compile(r".+(@[0-9a-f]{12})")


def model_label(model: str) -> str:
    """Return the label of a model: its id, or only the digest of a registered version, whose name is its org's."""
    match = VERSION.fullmatch(model)
    return f"version{match[1]}" if match else model
