"""Client of the gateway's REST API: JSON, event streams, typed errors."""

from __future__ import annotations

import json
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from drw.kernel.errors import HTTP, DrwError, InternalError, Unavailable
from drw.local.credentials import Credentials

if TYPE_CHECKING:
    import httpx

STREAM_SECONDS = 600.0


class Api:
    """A client with one API key."""

    def __init__(self, credentials: Credentials) -> None:
        # Imported here to keep other commands fast, and without httpx's command line, which
        # is slower to import than everything else.
        sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]
        import httpx

        encrypted = credentials.url.startswith("https:")
        self._client = httpx.Client(
            base_url=credentials.url,
            headers={"authorization": f"Bearer {credentials.key}"},
            timeout=httpx.Timeout(60.0, read=STREAM_SECONDS),
            verify=encrypted,  # without TLS, skip loading certificates, which takes as long as a call
            transport=httpx.HTTPTransport(verify=encrypted, uds=credentials.socket) if credentials.socket else None,
        )

    @classmethod
    def of(cls, data_dir: Path | None) -> Api:
        """Return the client for a data folder, or for the environment's platform."""
        return cls(Credentials.of(data_dir))

    @property
    def address(self) -> str:
        """The address of the gateway, without a slash at its end."""
        return str(self._client.base_url).rstrip("/")

    def get(self, path: str, **query: Any) -> dict[str, Any]:
        """Send GET and return the JSON."""
        return self._call("GET", path, params={k: v for k, v in query.items() if v is not None})

    def post(self, path: str, body: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
        """Send POST and return the JSON."""
        return self._call("POST", path, json=body or {}, **options)

    def put(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Send PUT and return the JSON."""
        return self._call("PUT", path, json=body)

    def upload(self, path: str, file: Path, **fields: str) -> dict[str, Any]:
        """Upload a file as a multipart form, streamed from disk."""
        with file.open("rb") as content:
            return self._call("POST", path, files={"file": (file.name, content)}, data=fields)

    def download(self, path: str, destination: Path) -> None:
        """Download a file, streamed to disk. A download that breaks off leaves no file."""
        partial = destination.with_name(f"{destination.name}.partial")
        try:
            with self._translate_errors(), self._client.stream("GET", path) as response:
                if response.status_code >= 400:
                    response.read()
                    raise _error_of(response)
                with partial.open("wb") as file:
                    for chunk in response.iter_bytes():
                        file.write(chunk)
            partial.replace(destination)
        finally:
            partial.unlink(missing_ok=True)

    def exists(self, path: str) -> bool:
        """Send HEAD, and return whether the object exists. An error shows in the request that follows."""
        with self._translate_errors():
            return self._client.head(path).status_code == 200

    def put_file(self, path: str, file: Path) -> dict[str, Any]:
        """Send PUT with the bytes of a file, streamed from disk, and return the JSON."""
        with file.open("rb") as content:
            return self._call("PUT", path, content=content, headers={"content-length": str(file.stat().st_size)})

    def delete(self, path: str) -> dict[str, Any]:
        """Send DELETE and return the JSON."""
        return self._call("DELETE", path)

    def pages(self, path: str, items: str, limit: int = 1000, **query: Any) -> list[dict[str, Any]]:
        """Fetch the pages of a collection and return at most `limit` items."""
        records: list[dict[str, Any]] = []
        token: str | None = None
        while len(records) < limit:
            page = self.get(path, page_token=token, **query)
            records += page[items]
            if not (token := page.get("next_page_token")):
                break
        return records[:limit]

    def events(
        self, method: str, path: str, body: dict[str, Any] | None = None
    ) -> Generator[dict[str, Any], None, None]:
        """Yield the events of a stream.

        Raises:
            DrwError: the request failed, before or during the stream.
            Unavailable: the stream was truncated.
        """
        with self._translate_errors(), self._client.stream(method, path, json=body) as response:
            if response.status_code >= 400:
                response.read()
                raise _error_of(response)
            kind = ""
            for line in response.iter_lines():
                if line.startswith("event: "):
                    kind = line.removeprefix("event: ")
                elif line.startswith("data: "):
                    data = line.removeprefix("data: ")
                    if kind == "done" or data == "[DONE]":
                        return
                    event = json.loads(data)
                    if kind == "error" or "error" in event:
                        raise _from_body(500, event)
                    yield event
                elif not line:
                    kind = ""
        raise Unavailable("the stream broke off before its end")

    def _call(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        with self._translate_errors():
            response = self._client.request(method, path, **options)
        if response.status_code >= 400:
            raise _error_of(response)
        return cast(dict[str, Any], response.json())

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        import httpx

        try:
            yield
        except httpx.ConnectError as error:
            raise Unavailable(
                f"nothing answers at {self._client.base_url}: `drw status` shows what runs, `drw up` starts it"
            ) from error
        except httpx.HTTPError as error:
            raise Unavailable(f"the call to {self._client.base_url} broke off: {error}") from error


def _error_of(response: httpx.Response) -> DrwError:
    try:
        body = response.json()
    except ValueError:
        return InternalError(f"the platform answered {response.status_code} without saying why")
    return _from_body(response.status_code, body)


def _from_body(status: int, body: dict[str, Any]) -> DrwError:
    error = body.get("error") or {}
    if isinstance(error, str):  # the form of the Open Inference Protocol
        return next((c for c, form in HTTP.items() if form.status == status), InternalError)(error)
    error_type = error.get("type")
    cls = next((c for c, form in HTTP.items() if form.status == status and form.type == error_type), None)
    cls = cls or next((c for c, form in HTTP.items() if form.type == error_type), InternalError)
    return cls(error.get("message") or f"the platform answered {status}", code=error.get("code") or "")
