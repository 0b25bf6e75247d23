"""Parses upstream addresses and URLs strictly, so that no library can read another host from the same text."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from drw.egress.ip_ranges import Ip
from drw.kernel.errors import InvalidRequest

HOST_NAME = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)(\.(?!-)[a-z0-9-]{1,63}(?<!-))*")
URL = re.compile(r"""(https?)://([A-Za-z0-9.:\[\]-]+)(/[!"$->@-\[\]-~]*)?(\?[!"$-\[\]-~]*)?""")
DEFAULT_PORTS = {"https": 443, "http": 80}
MAX_ADDRESS = 300
MAX_URL = 500
MAX_SOCKET_PATH = 107


class InvalidAddress(InvalidRequest):
    """The address or URL cannot be parsed, or its host is disguised."""


@dataclass(frozen=True, slots=True)
class EgressTarget:
    """A parsed address: the path of a Unix socket, or a host (IP or lower-case name) with a port."""

    path: str = ""
    host: str = ""
    port: int = 0

    @property
    def ip(self) -> Ip | None:
        """The IP address of the host; None: the host is a name."""
        try:
            return ipaddress.ip_address(self.host)
        except ValueError:
            return None


@dataclass(frozen=True, slots=True)
class Url:
    """A parsed URL."""

    scheme: str
    target: EgressTarget
    path: str
    query: str = ""
    """Includes the '?', or is empty."""

    def __str__(self) -> str:
        host = f"[{self.target.host}]" if ":" in self.target.host else self.target.host
        port = "" if self.target.port == DEFAULT_PORTS[self.scheme] else f":{self.target.port}"
        return f"{self.scheme}://{host}{port}{self.path}{self.query}"


def parse_target(address: str) -> EgressTarget:
    """Parse `unix:/path`, `host:port`, `http://host[:port]/...` or `https://host[:port]/...`.

    Raises:
        InvalidAddress: the address has none of these forms, or its host is disguised.
    """
    if len(address) > MAX_ADDRESS or not address.isascii() or re.search(r"[\s\x00-\x1f\x7f\\%@]", address):
        raise InvalidAddress(
            f"{address[:MAX_ADDRESS]!r} is not an address: write it as in 'unix:/run/x.sock' or 'host:8000', without "
            "user, '%', '\\' or blanks (a name in another script in its form 'xn--')"
        )
    if address.startswith("unix:"):
        return EgressTarget(path=parse_socket_path(address))
    if "://" in address:
        return _target_of_url(address)
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit() or (":" in host and not (host.startswith("[") and host.endswith("]"))):
        raise InvalidAddress(
            f"{address!r} is not an address: write it as in 'host:8000', '[::1]:8000' or 'unix:/run/x.sock'"
        )
    return EgressTarget(host=_parse_host(host, address), port=parse_port(int(port), address))


def parse_url(url: str) -> Url:
    """Parse a URL to fetch: `http://` or `https://`, a host, a port, a path and a query.

    The host is parsed as strictly as an address. Requests must use the result, never the text: another library can
    parse another host from it.

    Raises:
        InvalidAddress: it is not such a URL, or its host is disguised.
    """
    match = URL.fullmatch(url)
    if match is None or len(url) > MAX_URL:
        raise InvalidAddress(
            f"{url[:80]!r} is not a URL: write it as in 'https://host/path', without user, '#' or blanks (a name in "
            f"another script in its form 'xn--'), of at most {MAX_URL} characters"
        )
    scheme, authority, path, query = match.groups("")
    if ":" not in authority.rpartition("]")[2]:
        authority = f"{authority}:{DEFAULT_PORTS[scheme]}"
    return Url(scheme, parse_target(authority), path or "/", query)


def parse_socket_path(address: str) -> str:
    """Return the path of `unix:/path`.

    Raises:
        InvalidAddress: the path is relative, too long, or not normalised.
    """
    path = address.removeprefix("unix:")
    if not path.startswith("/") or ".." in path.split("/") or "//" in path or len(path) > MAX_SOCKET_PATH:
        raise InvalidAddress(
            f"{address!r}: the path of a socket is absolute, without '..', of at most {MAX_SOCKET_PATH} bytes"
        )
    return path


def parse_port(port: int, address: str) -> int:
    """Return the port of an address.

    Raises:
        InvalidAddress: the port is not 1 to 65535.
    """
    if not 1 <= port <= 65535:
        raise InvalidAddress(f"{address!r}: a port is 1 to 65535")
    return port


def _target_of_url(address: str) -> EgressTarget:
    url = parse_url(address)
    if url.query:
        raise InvalidAddress(f"{address!r} is not an address: write it as in 'https://host/v1', without '?' and '#'")
    return url.target


def _parse_host(host: str, address: str) -> str:
    if host.startswith("["):
        try:
            return str(ipaddress.IPv6Address(host.strip("[]")))
        except ValueError as error:
            raise InvalidAddress(f"{address!r}: {host!r} is not an IPv6 address") from error
    try:
        return str(ipaddress.IPv4Address(host))
    except ValueError:
        pass
    name = host.lower()
    last_label = name.rpartition(".")[2]
    # Some libraries read 2130706433, 0177.0.0.1, 127.1 and 0x7f.1 as IP addresses.
    if last_label.isdigit() or last_label.startswith("0x"):
        raise InvalidAddress(f"{address!r}: write the IP {host!r} with four decimal numbers, as in '10.0.0.7'")
    if len(name) > 253 or not HOST_NAME.fullmatch(name):
        raise InvalidAddress(f"{address!r}: {host!r} is not a name (letters, digits, '-' and '.', no dot at its end)")
    return name
