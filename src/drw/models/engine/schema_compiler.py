"""Compiles JSON schemas with the compiler of the llama.cpp server, to find schemas that it cannot enforce.

Run as `python -m drw.models.engine.schema_compiler MEMORY_MIB CPU_SECONDS`. Each line of input is a schema as JSON.
Each line of output is `null` or the error as JSON. The server itself ignores a schema that does not compile.
The compiler is llguidance in the library of the server. A schema above the memory or time limit ends the process.
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
RESERVED_POINTERS = 16
DEFAULTS_BYTES = 1024


class _TokenizerInit(ctypes.Structure):
    """`LlgTokenizerInit` of llguidance.h. The reserved fields are zero, for releases that append fields."""

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
        ("reserved", ctypes.c_void_p * RESERVED_POINTERS),
    )


class Compiler:
    """llguidance with a vocabulary of single bytes, since the vocabulary does not affect compilation.

    Raises:
        RuntimeError: this version of the library is not supported.
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
        rejected = self.compile_error({"type": "string", "pattern": "^a{3,1}$"})
        if self.compile_error({"type": "string"}) or not rejected or "repetition" not in rejected:
            raise RuntimeError("this version of llguidance in xllamacpp is not supported")

    def compile_error(self, schema: dict[str, Any]) -> str | None:
        """Return the error of the compiler, or None for a valid schema."""
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
        new_tokenizer = self._library.llg_new_tokenizer
        new_tokenizer.restype = ctypes.c_void_p
        new_tokenizer.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t]
        message = ctypes.create_string_buffer(MAX_MESSAGE)
        if not (tokenizer := new_tokenizer(ctypes.byref(init), message, MAX_MESSAGE)):
            raise RuntimeError(message.value.decode(errors="replace"))
        return tokenizer


def main(memory_mib: int, cpu_seconds: int) -> int:
    """Compile the schema of each input line."""
    os.nice(10)  # below the priority of running requests
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (memory_mib << 20, memory_mib << 20))
    compiler = Compiler()
    print("ready", flush=True)
    for line in sys.stdin:
        used = resource.getrusage(resource.RUSAGE_SELF)
        limit = int(used.ru_utime + used.ru_stime) + 1 + cpu_seconds
        resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))
        print(json.dumps(compiler.compile_error(json.loads(line))), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
