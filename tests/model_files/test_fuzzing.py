"""Property tests: malformed headers raise only the library's error, and take bounded memory and reads."""

from __future__ import annotations

import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from drw.model_files.description import Header
from drw.model_files.errors import ModelRejected, SignatureRejected
from drw.model_files.formats import content, gguf_header, onnx_model, safetensors_header
from drw.model_files.formats.reader import Reader
from drw.model_files.inspection import inspect
from drw.model_files.limits import Limits
from drw.model_files.signatures.bundle import parse_bundle, parse_statement
from model_files import builders
from model_files.signers import Draft, private_key

LIMITS = replace(Limits(), safetensors_header_bytes=1 << 16, onnx_fields=5000, tensors=1000)
MAX_BYTES = 8 << 20
"""Memory of a parser on a file of a few kilobytes. Lengths in headers reach 2^64."""
MAX_READS = 50_000
"""Reads of a parser, which bound its time."""


def onnx_parse(reader: Reader, limits: Limits) -> Header:
    return onnx_model.parse(reader, limits, {reader.path: reader.size})


PARSERS: dict[str, Callable[[Reader, Limits], Header]] = {
    "gguf": gguf_header.parse,
    "safetensors": safetensors_header.parse,
    "onnx": onnx_parse,
}


class CountedReader(Reader):
    """Counts its reads."""

    reads = 0

    def read(self, offset: int, length: int) -> bytes:
        self.reads += 1
        return super().read(offset, length)


@contextmanager
def reader(data: bytes) -> Iterator[CountedReader]:
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        yield CountedReader(file.fileno(), "model", 1 << 20)


def valid(folder: Path) -> dict[str, bytes]:
    return {
        "gguf": builders.write_gguf(folder / "a.gguf").read_bytes(),
        "safetensors": (builders.write_safetensors(folder) / "model.safetensors").read_bytes(),
        "onnx": builders.write_onnx(folder / "a.onnx").read_bytes(),
    }


with tempfile.TemporaryDirectory() as made:
    VALID = valid(Path(made))

EDGES = st.sampled_from([0, 1, 127, 128, 255, 1 << 31, (1 << 32) - 1, 1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])


@st.composite
def mutated(draw: st.DrawFn, data: bytes) -> bytes:
    """Return a valid file with some bytes replaced, inserted, removed, or cut off."""
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, min(len(changed), 600) - 1)))
        match draw(st.integers(0, 4)):
            case 0:
                changed[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
            case 1:
                changed[at : at + 8] = draw(EDGES).to_bytes(8, "little")
            case 2:
                changed[at:at] = draw(st.binary(max_size=9))
            case 3:
                del changed[at : at + draw(st.integers(1, 16))]
            case _:
                del changed[at:]
    return bytes(changed)


def check(kind: str, data: bytes) -> None:
    """Parse, and compare the peak of memory and the number of reads with their bounds."""
    with reader(data) as file:
        tracemalloc.start()
        with suppress(ModelRejected):
            PARSERS[kind](file, LIMITS)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < MAX_BYTES
        assert file.reads < MAX_READS


@pytest.fixture(autouse=True, scope="module")
def loaded() -> None:
    """Load the package `onnx`, whose memory does not count."""
    with reader(VALID["onnx"]) as file:
        onnx_parse(file, LIMITS)


FUZZ = settings(max_examples=150)


@pytest.mark.parametrize("kind", PARSERS)
def test_the_unchanged_file_is_valid(kind: str) -> None:
    with reader(VALID[kind]) as file:
        assert PARSERS[kind](file, LIMITS).description.parameters > 0


@pytest.mark.parametrize("kind", PARSERS)
@FUZZ
@given(data=st.binary(max_size=512))
@example(data=b"")
def test_random_bytes_raise_only_rejections(kind: str, data: bytes) -> None:
    prefix = {"gguf": b"GGUF\x03\0\0\0", "safetensors": b"", "onnx": b"\x08\x0a"}[kind]
    check(kind, data)
    check(kind, prefix + data)


@FUZZ
@given(data=mutated(VALID["gguf"]))
def test_mutated_gguf_raises_only_rejections(data: bytes) -> None:
    check("gguf", data)


@FUZZ
@given(data=mutated(VALID["safetensors"]))
def test_mutated_safetensors_raises_only_rejections(data: bytes) -> None:
    check("safetensors", data)


@FUZZ
@given(header=st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), st.lists, max_leaves=9))
def test_safetensors_header_of_any_json_raises_only_rejections(header: object) -> None:
    for value in ({"a": header}, {"a": builders.span("U8", [1], 0, 1) | {"shape": header}}, {"__metadata__": header}):
        check("safetensors", builders.safetensors_bytes(value, b"0"))


@FUZZ
@given(data=mutated(VALID["onnx"]))
def test_mutated_onnx_raises_only_rejections(data: bytes) -> None:
    check("onnx", data)


@FUZZ
@given(data=st.binary(max_size=300) | st.text("()IVcgdtl.\n0a'", max_size=60).map(str.encode))
@example(data=b"\x80\x04\x95" + b"\xff" * 8)
@example(data=b"I" + b"9" * 5000 + b"\n.")
def test_type_of_any_content_is_found(data: bytes) -> None:
    assert isinstance(content.content_type(data, data), str)


@FUZZ
@given(name=st.sampled_from(["m.gguf", "m.safetensors", "m.onnx", "a.txt", "config.json"]), data=st.binary(max_size=64))
def test_model_of_random_bytes_is_refused(name: str, data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / name).write_bytes(data)
        before = set(Path("/proc/self/fd").iterdir())
        with pytest.raises(ModelRejected):
            inspect(Path(folder))
        assert set(Path("/proc/self/fd").iterdir()) == before


@FUZZ
@given(data=st.data())
def test_mutated_bundle_raises_only_rejections(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "a.txt").write_text("a")
        bundle = Draft.of(Path(folder), private_key()).data
    with suppress(SignatureRejected):
        parse_statement(parse_bundle(data.draw(mutated(bundle))).payload)
