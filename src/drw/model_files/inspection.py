"""Inspection of a model: manifest, formats, configuration and chat templates. The entry point of the registry."""

from __future__ import annotations

import codecs
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from drw.model_files import chat_template, strict_json
from drw.model_files.description import Description, Header, counted
from drw.model_files.errors import FilesChanged, ModelRejected
from drw.model_files.formats import configuration, content, gguf_header, onnx_model, safetensors_header
from drw.model_files.formats.reader import Reader
from drw.model_files.limits import DEFAULT, Limits
from drw.model_files.manifest import Manifest, ModelFolder

MAX_REASONS = 20
BLOCK = 1 << 20
INDEX = ".safetensors.index.json"


@dataclass(frozen=True, slots=True)
class Inspection:
    """A model that may be imported and loaded."""

    manifest: Manifest
    description: Description


def inspect(
    path: Path,
    limits: Limits = DEFAULT,
    *,
    exclude: Collection[str] = (),
    domains: Collection[str] = onnx_model.DOMAINS,
) -> Inspection:
    """Check all files of a model. Blocks: call it in a thread.

    Args:
        path: a folder or a file.
        exclude: relative paths that are not part of the model, such as the signature bundle.
        domains: permitted operator domains of ONNX models.

    Raises:
        ModelRejected: the reasons, up to 20.
        FilesChanged: the files changed meanwhile.
        OSError: the path cannot be read.
    """
    with ModelFolder(path, limits, exclude) as folder:
        manifest = folder.manifest()
        description = _Inspector(folder, limits, domains).description()
        folder.check_unchanged()
    return Inspection(manifest, description)


class _Inspector:
    def __init__(self, folder: ModelFolder, limits: Limits, domains: Collection[str]) -> None:
        self._folder = folder
        self._limits = limits
        self._domains = domains
        self._sizes = {path: stamp.size for path, stamp in folder.stamps.items()}
        self._reasons: list[str] = []

    def description(self) -> Description:
        headers = self._headers()
        external = {path for header in headers.values() for path in header.external_files}
        for path in self._sizes:
            if path not in headers and Path(path).suffix.lower() not in content.MODEL_EXTENSIONS:
                with self._reasons_of():
                    self._check_other(path, path in external)
        self._raise()
        if not headers:
            raise ModelRejected("the model has no GGUF, safetensors or ONNX file")
        formats = sorted({header.description.format for header in headers.values()})
        if len(formats) > 1:
            raise ModelRejected(f"the model has files of several formats: {', '.join(formats)}; import each separately")
        self._check_index(headers)
        described, templates = configuration.describe(_merged(headers.values()), self._configuration())
        found = [template for header in headers.values() for _, template in header.templates]
        distinct = list(dict.fromkeys((*found, *(template for _, template in templates))))
        if len(distinct) > self._limits.templates:
            raise ModelRejected(
                f"the model has {len(distinct)} chat templates; the maximum is {self._limits.templates}"
            )
        for template in distinct:
            with self._reasons_of():
                chat_template.check(template, self._limits)
        self._raise()
        return described

    @contextmanager
    def _reasons_of(self) -> Iterator[None]:
        try:
            yield
        except FilesChanged:
            raise
        except ModelRejected as error:
            self._reasons += error.reasons
            if len(self._reasons) >= MAX_REASONS:
                self._raise()

    def _raise(self) -> None:
        if self._reasons:
            raise ModelRejected(*self._reasons[:MAX_REASONS])

    @contextmanager
    def _reader(self, path: str, max_read: int = BLOCK) -> Iterator[Reader]:
        descriptor = self._folder.open(path)
        try:
            yield Reader(descriptor, path, max_read)
        finally:
            os.close(descriptor)

    def _headers(self) -> dict[str, Header]:
        headers: dict[str, Header] = {}
        tensors = 0
        for path in self._sizes:
            if expected := content.MODEL_EXTENSIONS.get(PurePosixPath(path).suffix.lower()):
                with self._reasons_of(), self._reader(path, self._max_read(expected)) as reader:
                    headers[path] = self._header(reader, expected)
                    tensors += headers[path].description.tensors
            if tensors > self._limits.tensors:
                raise ModelRejected(f"the model has more than {self._limits.tensors:,} tensors")
        return headers

    def _max_read(self, kind: str) -> int:
        return self._limits.safetensors_header_bytes if kind == "safetensors" else self._limits.kept_string_bytes

    def _header(self, reader: Reader, expected: str) -> Header:
        found = content.content_type(reader.head(content.HEAD), reader.tail(content.HEAD))
        if (
            found
            and found != expected
            and not (expected == "onnx" and found == "safetensors" and self._is_onnx(reader))
        ):
            raise ModelRejected(f"{reader.path} is not {expected}; its content is {found}")
        match expected:
            case "gguf":
                return gguf_header.parse(reader, self._limits)
            case "safetensors":
                return safetensors_header.parse(reader, self._limits)
            case _:
                return onnx_model.parse(reader, self._limits, self._sizes, self._domains)

    def _is_onnx(self, reader: Reader) -> bool:
        return reader.head(1) == b"\x08"  # the field `ir_version`; the parser checks the rest

    def _check_other(self, path: str, external: bool) -> None:
        """Check a file that is not a model by its name: external data, or a text."""
        with self._reader(path) as reader:
            found = content.content_type(reader.head(content.HEAD), reader.tail(content.HEAD))
            suffix = PurePosixPath(path).suffix.lower()
            if found in content.MODEL_EXTENSIONS.values() and not external:
                raise ModelRejected(f"{path} contains {found}; its name must end with .{found}")
            if found and found not in content.MODEL_EXTENSIONS.values():
                raise ModelRejected(f"{path} is refused: its content is {found}")
            if suffix in content.CODE_EXTENSIONS:
                raise ModelRejected(f"{path} is refused: files of the type {suffix} may contain code")
            if external:
                return
            if not content.is_text_name(path):
                raise ModelRejected(
                    f"{path} is refused: it is not GGUF, safetensors, ONNX, external data of ONNX, or a text such as "
                    ".json, .txt, .md or .jinja; exclude it if the model does not need it"
                )
            self._check_text(reader, suffix)

    def _check_text(self, reader: Reader, suffix: str) -> None:
        path = reader.path
        if reader.size > self._limits.text_bytes:
            raise ModelRejected(f"{path} has {reader.size:,} bytes; a text has at most {self._limits.text_bytes:,}")
        if suffix == ".json" and reader.head(BLOCK).lstrip()[:1] not in (b"{", b"[", b'"'):
            raise ModelRejected(f"{path} is named as JSON but is not JSON")
        decoder = codecs.getincrementaldecoder("utf-8")()
        try:
            for start in range(0, reader.size, BLOCK):
                block = reader.read(start, min(BLOCK, reader.size - start))
                if b"\x00" in block:
                    raise ModelRejected(f"{path} is named as a text but is binary")
                decoder.decode(block)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            raise ModelRejected(f"{path} is named as a text but is not UTF-8") from error

    def _check_index(self, headers: Mapping[str, Header]) -> None:
        """Check that the shards of safetensors weights are complete and have no tensor twice."""
        names: dict[str, str] = {}
        for path, header in headers.items():
            for name in header.tensor_names if header.description.format == "safetensors" else ():
                if name in names:
                    raise ModelRejected(f"{path} and {names[name]} both have the tensor {name[:100]!r}")
                names[name] = path
        for path in self._sizes:
            if path.endswith(INDEX):
                self._check_weight_map(path, headers)

    def _check_weight_map(self, path: str, headers: Mapping[str, Header]) -> None:
        try:
            index = strict_json.load(self._content(path, self._limits.safetensors_header_bytes))
        except strict_json.NotStrictJson as error:
            raise ModelRejected(f"{path} cannot be read: {error}") from error
        shards = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(shards, dict):
            raise ModelRejected(f"{path} has no weight_map")
        folder = PurePosixPath(path).parent
        for name, shard in shards.items():
            header = headers.get(str(folder / str(shard)))
            if header is None or name not in header.tensor_names:
                raise ModelRejected(f"{path} names the tensor {name[:100]!r} in {str(shard)[:100]!r}; it is not there")

    def _configuration(self) -> dict[str, bytes]:
        names = () if self._folder.single else (n for n in configuration.PARSED if n in self._sizes)
        return {name: self._content(name, self._limits.config_bytes) for name in names}

    def _content(self, path: str, maximum: int) -> bytes:
        with self._reader(path, maximum) as reader:
            if reader.size > maximum:
                raise ModelRejected(f"{path} has {reader.size:,} bytes; the maximum is {maximum:,}")
            return reader.read(0, reader.size)


def _merged(headers: Iterable[Header]) -> Description:
    """Return the description of all files of one model: the first with an architecture, with all tensors."""
    found = [header.description for header in headers]
    first = max(found, key=lambda each: bool(each.architecture))  # max returns the first of equal ones
    return replace(
        first,
        parameters=sum(each.parameters for each in found),
        tensors=sum(each.tensors for each in found),
        dtypes=counted(name for each in found for name, number in each.dtypes for _ in range(number)),
    )
