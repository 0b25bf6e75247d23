"""Child process that inspects one model folder, so that a hostile file cannot harm the service.

Started as `python -I -m drw.model_files.inspection_process FOLDER MEMORY`. It prints one JSON object: {"files",
"description"}, {"rejected": reasons} or {"changed": reason}.
"""

from __future__ import annotations

import ctypes
import json
import resource
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from drw.model_files.errors import FilesChanged, ModelRejected
from drw.model_files.inspection import inspect

PR_SET_PDEATHSIG = 1
MAX_WRITTEN = 64 << 20
"""Bytes of a file that the process and its template process can write."""


def main(folder: str, memory: int) -> None:
    """Inspect the folder and print the result."""
    _confine(memory)
    sys.stdout.write(json.dumps(_result(Path(folder))))


def _confine(memory: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_FSIZE, (MAX_WRITTEN, MAX_WRITTEN))
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _result(folder: Path) -> dict[str, Any]:
    try:
        inspection = inspect(folder)
    except FilesChanged as error:
        return {"changed": error.message}
    except ModelRejected as error:
        return {"rejected": error.reasons}
    except MemoryError:
        return {"rejected": ["the headers of the files take more memory than permitted"]}
    except OSError as error:
        return {"changed": f"the files cannot be read: {error.strerror}"}
    return {
        "files": [file._asdict() for file in inspection.manifest.files],
        "description": asdict(inspection.description),
    }


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
