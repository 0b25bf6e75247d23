"""Compiles JSON schemas as the llama.cpp server does, and says what it would refuse.

Run as `python -m drw.models.engine.schema_compiler MEMORY_MIB CPU_SECONDS`: a line of JSON with a schema in, a line
of JSON out: `null`, or why it cannot be compiled. The server itself answers without any constraint where that fails.
The compiler is llguidance, out of the server's own library. A schema that takes more memory or time ends the process.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import sys
from pathlib import Path
from typing import Any

MAX_MESSAGE = 1000
END_OF_TEXT = 256
SPARE_POINTERS = 16
DEFAULTS_BYTES = 1024


class _TokenizerInit(ctypes.Structure):
    """llguidance.h, `LlgTokenizerInit`; what later releases add at its end stays zero."""

    _fields_ = (
        ("vocab_size", ctypes.c_uint32),
        ("tok_eos", ctypes.c_uint32),
        ("token_lens", ctypes.POINTER(ctypes.c_uint32)),
        ("token_bytes", ctypes.c_char_p),
        ("tokenizer_json", ctypes.c_char_p),
        ("tokenize_assumes_string", ctypes.c_bool),
        ("tokenize_fn", ctypes.c_void_p),
        ("use_approximate_greedy_tokenize_fn", ctypes.c_bool),
        ("tokenize_user_data", ctypes.c_void_p),
        ("slices", ctypes.c_void_p),
        ("spare", ctypes.c_void_p * SPARE_POINTERS),
    )


class Compiler:
    """llguidance with a vocabulary of single bytes: whether a schema compiles does not depend on the model's.

    Raises:
        RuntimeError: the library is another than this was written for.
    """

    def __init__(self) -> None:
        import xllamacpp

        self._library = ctypes.CDLL(str(Path(xllamacpp.__file__).with_name("xllamacpp.abi3.so")))
        self._defaults = ctypes.create_string_buffer(DEFAULTS_BYTES)
        self._validate = self._library.llg_validate_grammar
        self._validate.restype = ctypes.c_int32
        self._validate.argtypes = [ctypes.c_void_p, *[ctypes.c_char_p] * 3, ctypes.c_size_t]
        set_defaults = self._library.llg_constraint_init_set_defaults
        set_defaults.restype = None
        set_defaults.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
        set_defaults(self._defaults, self._tokenizer())
        refused = self.fault({"type": "string", "pattern": "^a{3,1}$"})
        if self.fault({"type": "string"}) or not refused or "repetition" not in refused:
            raise RuntimeError("xllamacpp has another llguidance than this release knows")

    def fault(self, schema: dict[str, Any]) -> str | None:
        """Return why a schema cannot be compiled; None where it can."""
        message = ctypes.create_string_buffer(MAX_MESSAGE)
        text = json.dumps(schema).encode()
        if self._validate(self._defaults, b"json_schema", text, message, MAX_MESSAGE) >= 0:
            return None
        return message.value.decode(errors="replace") or "it cannot be compiled"

    def _tokenizer(self) -> Any:
        tokens = [*(bytes([byte]) for byte in range(END_OF_TEXT)), b"\xff<end>"]
        lengths = (ctypes.c_uint32 * len(tokens))(*map(len, tokens))
        init = _TokenizerInit(
            vocab_size=len(tokens),
            tok_eos=END_OF_TEXT,
            token_lens=lengths,
            token_bytes=b"".join(tokens),
            use_approximate_greedy_tokenize_fn=True,
        )
        make = self._library.llg_new_tokenizer
        make.restype = ctypes.c_void_p
        make.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t]
        message = ctypes.create_string_buffer(MAX_MESSAGE)
        if not (tokenizer := make(ctypes.byref(init), message, MAX_MESSAGE)):
            raise RuntimeError(message.value.decode(errors="replace"))
        return tokenizer


def main(memory_mib: int, cpu_seconds: int) -> int:
    """Answer schemas until the input ends."""
    os.nice(10)  # answers under way go first
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (memory_mib << 20, memory_mib << 20))
    compiler = Compiler()
    print("ready", flush=True)
    for line in sys.stdin:
        used = resource.getrusage(resource.RUSAGE_SELF)
        limit = int(used.ru_utime + used.ru_stime) + 1 + cpu_seconds
        resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))
        print(json.dumps(compiler.fault(json.loads(line))), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
