"""Egress allow-list: upstream addresses must be on a list, and some are always forbidden.

It prevents server-side request forgery to cloud metadata and internal services. A host name must be on the list by
name: networks on the list do not allow names, since DNS can change.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence

from drw.egress.addresses import (
    HOST_NAME,
    EgressTarget,
    InvalidAddress,
    parse_port,
    parse_socket_path,
    parse_target,
)
from drw.egress.ip_ranges import Ip, Network, embedded, is_forbidden
from drw.kernel.errors import InvalidRequest

Resolver = Callable[[str], Awaitable[list[str]]]

METADATA_NAMES = ("metadata", "metadata.google.internal", "metadata.goog", "instance-data")
RESOLVE_SECONDS = 3.0


class AddressNotAllowed(InvalidRequest):
    """The address is not on the list, or is always forbidden."""


async def resolve(name: str) -> list[str]:
    """Return the current IP addresses of a name, sorted; empty: the name does not resolve."""
    import asyncio  # here, since `drw config` checks addresses without it

    try:
        async with asyncio.timeout(RESOLVE_SECONDS):
            results = await asyncio.get_running_loop().getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError, TimeoutError):
        return []
    return sorted({str(entry[4][0]).partition("%")[0] for entry in results})


def check_settings(address: str) -> None:
    """Check an address in the operator's settings, which needs no entry of a list.

    Raises:
        InvalidAddress: it is not an address.
        AddressNotAllowed: the address is always forbidden.
    """
    target = parse_target(address)
    if target.host in METADATA_NAMES:
        raise _metadata_error(address)
    if target.ip is not None:
        _check_not_forbidden(target.ip, address)


class EgressAllowlist:
    """An allow-list of addresses.

    An entry is a network ('10.0.0.0/8'), an IP or a name ('vllm.internal', '*.svc.cluster.local'), each with one port
    ('vllm.internal:8000') or for all ports, or the path of a Unix socket ('unix:/run/vllm/*' for a whole folder).
    Networks and IPs allow addresses that are written as IPs; a name needs an entry of names, whose DNS is trusted.
    """

    def __init__(self, entries: Sequence[str], resolver: Resolver = resolve) -> None:
        """Parse the entries.

        Raises:
            InvalidAddress: an entry is invalid.
        """
        self._entries = tuple(entries)
        self._resolver = resolver
        paths = [parse_socket_path(entry) for entry in entries if entry.startswith("unix:")]
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
            InvalidAddress: it is not an address.
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

    async def check_resolved(self, address: str) -> None:
        """Check an address and the current IP addresses of its name; a name that does not resolve passes.

        It finds mistakes early. It gives no guarantee, since the name is resolved again for each connection.

        Raises:
            InvalidAddress: it is not an address.
            AddressNotAllowed: the address is not allowed, or the name resolves to a forbidden address or to this
                machine.
        """
        target = self.check(address)
        if target.path or target.ip is not None:
            return
        for ip in map(ipaddress.ip_address, await self._resolver(target.host)):
            _check_not_forbidden(ip, address)
            is_loopback = any(embedded_ip.is_loopback for embedded_ip in embedded(ip))
            if target.host != "localhost" and is_loopback and not self._contains(ip, target.port):
                raise AddressNotAllowed(f"{address!r} is a name of this machine itself", param="address")

    def _add(self, entry: str) -> None:
        host, port = _split_port(entry)
        try:
            self._networks.append((ipaddress.ip_network(host.strip("[]")), port))
        except ValueError as error:
            name = host.lower().removeprefix("*.")
            if not HOST_NAME.fullmatch(name) or name.rpartition(".")[2].isdigit():
                raise InvalidAddress(
                    f"{entry!r} is not an entry of a list of addresses: write it as in '10.0.0.0/8', "
                    "'vllm.internal:8000', '*.svc.cluster.local' or 'unix:/run/vllm/*'"
                ) from error
            self._names.append((host.lower(), port))

    def _check_path(self, path: str, address: str) -> None:
        if path not in self._paths and not any(path.startswith(folder) and path != folder for folder in self._folders):
            raise self._not_listed(address)

    def _check_ip(self, ip: Ip, port: int, address: str) -> None:
        _check_not_forbidden(ip, address)
        if not self._contains(ip, port):
            raise self._not_listed(address)

    def _check_name(self, target: EgressTarget, address: str) -> None:
        if target.host in METADATA_NAMES:
            raise _metadata_error(address)
        if not any(_matches(name, target.host) and port in (0, target.port) for name, port in self._names):
            entry = f"{target.host}:{target.port}"
            raise self._not_listed(address, f"; a name needs its own entry, as in {entry!r}: networks allow IPs")

    def _contains(self, ip: Ip, port: int) -> bool:
        """Return whether the listed networks contain the IP address, or all IPv4 addresses embedded in it."""
        return all(
            any(embedded_ip in network and allowed_port in (0, port) for network, allowed_port in self._networks)
            for embedded_ip in embedded(ip)
        )

    def _not_listed(self, address: str, hint: str = "") -> AddressNotAllowed:
        listed = ", ".join(repr(entry) for entry in self._entries) or "nothing"
        return AddressNotAllowed(
            f"the address {address!r} is not allowed; allowed are: {listed} (the setting "
            f"load_balancer.allowed_upstreams){hint}",
            param="address",
        )


def _metadata_error(address: str) -> AddressNotAllowed:
    return AddressNotAllowed(f"{address!r} is a cloud's metadata, which no upstream can be", param="address")


def _split_port(entry: str) -> tuple[str, int]:
    """Return the host and the port of an entry; 0: all ports."""
    host, colon, port = entry.rpartition(":")
    if colon and port.isdigit() and (":" not in host or host.endswith("]")):
        return host, parse_port(int(port), entry)
    return entry, 0


def _matches(name: str, host: str) -> bool:
    return host.endswith(name[1:]) if name.startswith("*.") else host == name


def _check_not_forbidden(ip: Ip, address: str) -> None:
    if is_forbidden(ip):
        addresses = " or ".join(map(str, embedded(ip)))
        raise AddressNotAllowed(
            f"{address!r} is {addresses}, a link-local, metadata or multicast address, which no upstream can have",
            param="address",
        )
