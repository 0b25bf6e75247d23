"""Egress allow-list: upstream addresses must be on a list, and some are always forbidden.

It prevents server-side request forgery to cloud metadata and internal services. Disguised forms of addresses are
rejected. A host name must be on the list by name: networks on the list do not allow names, since DNS can change.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from drw.kernel.errors import InvalidRequest
from drw.routing.ip_ranges import Ip, Network, embedded, is_forbidden

Resolve = Callable[[str], Awaitable[list[str]]]

NAME = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)(\.(?!-)[a-z0-9-]{1,63}(?<!-))*")
METADATA_NAMES = ("metadata", "metadata.google.internal", "metadata.goog", "instance-data")
URL = re.compile(r"""(https?)://([A-Za-z0-9.:\[\]-]+)(/[!"$->@-\[\]-~]*)?(\?[!"$-\[\]-~]*)?""")
PORTS = {"https": 443, "http": 80}
MAX_ADDRESS = 300
MAX_URL = 500
MAX_UNIX = 107
RESOLVE_SECONDS = 3.0


class AddressNotAllowed(InvalidRequest):
    """The address is not on the list, or is one that no list can allow."""


class BadAddress(InvalidRequest):
    """It is not an address as we write them."""


@dataclass(frozen=True, slots=True)
class EgressTarget:
    """An address, read: a path of a Unix socket, or a host (an IP or a name in small letters) and a port."""

    path: str = ""
    host: str = ""
    port: int = 0

    @property
    def ip(self) -> Ip | None:
        """The host, where it is an IP."""
        try:
            return ipaddress.ip_address(self.host)
        except ValueError:
            return None


@dataclass(frozen=True, slots=True)
class Url:
    """A URL, read."""

    scheme: str
    target: EgressTarget
    path: str
    query: str = ""
    """With its '?', or empty."""

    def __str__(self) -> str:
        host = f"[{self.target.host}]" if ":" in self.target.host else self.target.host
        port = "" if self.target.port == PORTS[self.scheme] else f":{self.target.port}"
        return f"{self.scheme}://{host}{port}{self.path}{self.query}"


def parse_target(address: str) -> EgressTarget:
    """Read `unix:/path`, `host:port`, `http://host[:port]/...` or `https://host[:port]/...`.

    Raises:
        BadAddress: it is none of these, or a host in disguise.
    """
    if len(address) > MAX_ADDRESS or not address.isascii() or re.search(r"[\s\x00-\x1f\x7f\\%@]", address):
        raise BadAddress(
            f"{address[:MAX_ADDRESS]!r} is not an address: write it as in 'unix:/run/x.sock' or 'host:8000', without "
            "user, '%', '\\' or blanks (a name in another script in its form 'xn--')"
        )
    if address.startswith("unix:"):
        return EgressTarget(path=_path(address))
    if "://" in address:
        return _from_url(address)
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit() or (":" in host and not (host.startswith("[") and host.endswith("]"))):
        raise BadAddress(
            f"{address!r} is not an address: write it as in 'host:8000', '[::1]:8000' or 'unix:/run/x.sock'"
        )
    return EgressTarget(host=_host(host, address), port=_port(int(port), address))


def _path(address: str) -> str:
    path = address.removeprefix("unix:")
    if not path.startswith("/") or ".." in path.split("/") or "//" in path or len(path) > MAX_UNIX:
        raise BadAddress(f"{address!r}: the path of a socket is absolute, without '..', of at most {MAX_UNIX} bytes")
    return path


def parse_url(url: str) -> Url:
    """Parse a URL to fetch: `http://` or `https://`, a host, a port, a path and a query.

    The host is parsed as strictly as an address. Requests must use the result, never the text: another library can
    parse another host from it.

    Raises:
        BadAddress: it is not such a URL, or its host is disguised.
    """
    match = URL.fullmatch(url)
    if match is None or len(url) > MAX_URL:
        raise BadAddress(
            f"{url[:80]!r} is not a URL: write it as in 'https://host/path', without user, '#' or blanks (a name in "
            f"another script in its form 'xn--'), of at most {MAX_URL} characters"
        )
    scheme, authority, path, query = match.groups("")
    if ":" not in authority.rpartition("]")[2]:
        authority = f"{authority}:{PORTS[scheme]}"
    return Url(scheme, parse_target(authority), path or "/", query)


def _from_url(address: str) -> EgressTarget:
    url = parse_url(address)
    if url.query:
        raise BadAddress(f"{address!r} is not an address: write it as in 'https://host/v1', without '?' and '#'")
    return url.target


def _host(host: str, address: str) -> str:
    if host.startswith("["):
        try:
            return str(ipaddress.IPv6Address(host.strip("[]")))
        except ValueError as error:
            raise BadAddress(f"{address!r}: {host!r} is not an IPv6 address") from error
    try:
        return str(ipaddress.IPv4Address(host))
    except ValueError:
        pass
    name = host.lower()
    last = name.rpartition(".")[2]
    if last.isdigit() or last.startswith("0x"):  # 2130706433, 0177.0.0.1, 127.1, 0x7f.1: an IP to some libraries
        raise BadAddress(f"{address!r}: write the IP {host!r} with four decimal numbers, as in '10.0.0.7'")
    if len(name) > 253 or not NAME.fullmatch(name):
        raise BadAddress(f"{address!r}: {host!r} is not a name (letters, digits, '-' and '.', no dot at its end)")
    return name


def _port(port: int, address: str) -> int:
    if not 1 <= port <= 65535:
        raise BadAddress(f"{address!r}: a port is 1 to 65535")
    return port


async def resolve(name: str) -> list[str]:
    """Return the addresses of a name now; none where it has none."""
    import asyncio  # here, since `drw config` checks addresses without it

    try:
        async with asyncio.timeout(RESOLVE_SECONDS):
            results = await asyncio.get_running_loop().getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError, TimeoutError):
        return []
    return sorted({str(entry[4][0]).partition("%")[0] for entry in results})


def check_settings(address: str) -> None:
    """Check an address in the operator's settings, which are allowed without a list.

    Raises:
        BadAddress: it is not an address.
        AddressNotAllowed: the address is always forbidden.
    """
    target = parse_target(address)
    if target.host in METADATA_NAMES:
        raise _metadata(address)
    if target.ip is not None:
        _never(target.ip, address)


class EgressAllowlist:
    """An allow-list of addresses.

    An entry is a network ('10.0.0.0/8'), an IP or a name ('vllm.internal', '*.svc.cluster.local'), each with a port
    or for all of them ('vllm.internal:8000'), or the path of a Unix socket ('unix:/run/vllm/*' for a whole folder).
    Networks and IPs allow addresses that are written as IPs; a name needs an entry of names, whose DNS is trusted.

    """

    def __init__(self, entries: Sequence[str], asking: Resolve = resolve) -> None:
        """Read the list.

        Raises:
            BadAddress: an entry is none.
        """
        self._entries = tuple(entries)
        self._asking = asking
        paths = [_path(entry) for entry in entries if entry.startswith("unix:")]
        self._paths = [path for path in paths if not path.endswith("/*")]
        self._folders = [path.removesuffix("*") for path in paths if path.endswith("/*")]
        self._networks: list[tuple[Network, int]] = []
        self._names: list[tuple[str, int]] = []
        for entry in entries:
            if not entry.startswith("unix:"):
                self._add(entry)

    def check(self, address: str) -> EgressTarget:
        """Return the parsed address if it is allowed; names are checked without DNS.

        Raises:
            BadAddress: it is not an address.
            AddressNotAllowed: the address is not allowed.
        """
        target = parse_target(address)
        if target.path:
            self._check_path(target.path, address)
        elif (ip := target.ip) is not None:
            self._check_ip(ip, target.port, address)
        else:
            self._check_name(target, address)
        return target

    async def check_now(self, address: str) -> None:
        """Check an address, and resolve a name now; a name without addresses passes.

        It finds mistakes early. It gives no guarantee, since the name is resolved again when it is used.

        Raises:
            BadAddress: it is not an address.
            AddressNotAllowed: the address is not allowed, or the name resolves to a forbidden address or to this
                machine.
        """
        target = self.check(address)
        if target.path or target.ip is not None:
            return
        for ip in map(ipaddress.ip_address, await self._asking(target.host)):
            _never(ip, address)
            loopback = any(one.is_loopback for one in embedded(ip))
            if target.host != "localhost" and loopback and not self._holds(ip, target.port):
                raise AddressNotAllowed(f"{address!r} is a name of this machine itself", param="address")

    def _add(self, entry: str) -> None:
        host, port = _split(entry)
        try:
            self._networks.append((ipaddress.ip_network(host.strip("[]")), port))
        except ValueError as error:
            name = host.lower().removeprefix("*.")
            if not NAME.fullmatch(name) or name.rpartition(".")[2].isdigit():
                raise BadAddress(
                    f"{entry!r} is not an entry of a list of addresses: write it as in '10.0.0.0/8', "
                    "'vllm.internal:8000', '*.svc.cluster.local' or 'unix:/run/vllm/*'"
                ) from error
            self._names.append((host.lower(), port))

    def _check_path(self, path: str, address: str) -> None:
        if path not in self._paths and not any(path.startswith(folder) and path != folder for folder in self._folders):
            raise self._not_listed(address)

    def _check_ip(self, ip: Ip, port: int, address: str) -> None:
        _never(ip, address)
        if not self._holds(ip, port):
            raise self._not_listed(address)

    def _check_name(self, target: EgressTarget, address: str) -> None:
        if target.host in METADATA_NAMES:
            raise _metadata(address)
        if not any(_names(entry, target.host) and port in (0, target.port) for entry, port in self._names):
            own = f"{target.host}:{target.port}"
            raise self._not_listed(address, f"; a name needs an entry of its own, as in {own!r}: networks allow IPs")

    def _holds(self, ip: Ip, port: int) -> bool:
        """Return whether networks of the list hold the address, or every IPv4 address that it carries."""
        return all(
            any(one in network and allowed_port in (0, port) for network, allowed_port in self._networks)
            for one in embedded(ip)
        )

    def _not_listed(self, address: str, more: str = "") -> AddressNotAllowed:
        listed = ", ".join(repr(entry) for entry in self._entries) or "nothing"
        return AddressNotAllowed(
            f"the address {address!r} is not allowed; allowed are: {listed} (the setting "
            f"load_balancer.allowed_upstreams){more}",
            param="address",
        )


def _metadata(address: str) -> AddressNotAllowed:
    return AddressNotAllowed(f"{address!r} is a cloud's metadata, which no upstream can be", param="address")


def _split(entry: str) -> tuple[str, int]:
    host, colon, port = entry.rpartition(":")
    if colon and port.isdigit() and (":" not in host or host.endswith("]")):
        return host, _port(int(port), entry)
    return entry, 0


def _names(entry: str, host: str) -> bool:
    return host.endswith(entry[1:]) if entry.startswith("*.") else host == entry


def _never(ip: Ip, address: str) -> None:
    if is_forbidden(ip):
        shown = " or ".join(map(str, embedded(ip)))
        raise AddressNotAllowed(
            f"{address!r} is {shown}, a link-local, metadata or multicast address, which no upstream can have",
            param="address",
        )
