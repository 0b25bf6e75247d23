"""Allow-list of hosts that workflow templates call by HTTP: exact hosts and ports, and the addresses of their names.

A name is resolved once for each connection, and the connection goes to an address that was checked: a name that
changes its address (DNS rebinding) reaches nothing else.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from drw.egress.addresses import DEFAULT_PORTS, InvalidAddress, Url, parse_url
from drw.egress.allowlist import METADATA_NAMES, AddressNotAllowed
from drw.egress.ip_ranges import Ip, Network, embedded, is_forbidden, is_public

SETTING = "workflow.http_hosts"
Origin = tuple[str, str, int]
"""Scheme, host and port."""


class HttpHosts:
    """The listed hosts. An entry is `HOST` or `HOST:PORT` for HTTPS, or `http://HOST:PORT` for HTTP."""

    def __init__(self, entries: Sequence[str], networks: Sequence[str] = ()) -> None:
        """Parse the entries, and the networks that are not public and that names can resolve to.

        Raises:
            InvalidAddress: an entry is not a host, or a network is not a network.
        """
        self._origins = {origin_of_entry(entry) for entry in entries}
        self._addresses: set[tuple[Ip, int]] = set()
        for _, host, port in self._origins:
            if (ip := _ip(host)) is not None:
                self._addresses.add((ip, port))
        self._networks = [_network(text) for text in networks]

    def check(self, url: Url) -> None:
        """Check that a URL is on the list.

        Raises:
            AddressNotAllowed: it is not, or it is a cloud's metadata, which no entry allows.
        """
        if origin_of(url) not in self._origins:
            raise AddressNotAllowed(
                f"{_shown(url)!r} is not in {SETTING}, the hosts that templates can call", param="url"
            )
        ip = url.target.ip
        if url.target.host in METADATA_NAMES or (ip is not None and is_forbidden(ip)):
            raise AddressNotAllowed(f"{_shown(url)!r} is a link-local or metadata address, never allowed", param="url")

    def check_address(self, host: str, port: int, ip: Ip) -> None:
        """Check an address that a listed name resolves to.

        Raises:
            AddressNotAllowed: it is link-local or metadata, or it is not public and neither listed nor in a network.
        """
        if is_forbidden(ip):
            raise AddressNotAllowed(f"{host!r} resolves to a link-local or metadata address", param="url")
        if is_public(ip):
            return
        if not all((address, port) in self._addresses or self._in_networks(address) for address in embedded(ip)):
            raise AddressNotAllowed(
                f"{host!r} resolves to an address that is not public: list it in {SETTING} or workflow.http_networks",
                param="url",
            )

    def _in_networks(self, ip: Ip) -> bool:
        return any(ip in network for network in self._networks)


def origin_of(url: Url) -> Origin:
    """Return scheme, host and port of a URL."""
    return url.scheme, url.target.host, url.target.port


def origin_of_entry(entry: str) -> Origin:
    """Return the origin of an entry of the list.

    Raises:
        InvalidAddress: the entry is not a host.
    """
    url = parse_url(entry if "://" in entry else f"https://{entry}")
    if url.path != "/" or url.query or url.target.path:
        raise InvalidAddress(f"{entry!r} is not a host: write it as in 'api.example:8443' or 'http://10.0.0.7:8080'")
    return origin_of(url)


def _network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise InvalidAddress(f"{text!r} is not a network: write it as in '10.20.0.0/16'") from error


def _ip(host: str) -> Ip | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _shown(url: Url) -> str:
    default = DEFAULT_PORTS[url.scheme] == url.target.port
    return f"{url.scheme}://{url.target.host}" + ("" if default else f":{url.target.port}")
