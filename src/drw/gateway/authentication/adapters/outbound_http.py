"""Outbound HTTP to URLs that operators supply: SSRF checks of the URL and of each resolved address."""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Iterable
from socket import AddressFamily

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from drw.egress.addresses import EgressTarget, Url, parse_target, parse_url
from drw.egress.allowlist import METADATA_NAMES, AddressNotAllowed
from drw.egress.ip_ranges import Ip, is_forbidden, is_public


class FetchTarget:
    """Allowed URLs: https to public hosts, and http or https to hosts in a setting.

    `check` validates a URL when it is set. `checked_connector` validates each address at connection time with `allows`,
    since DNS can change in between.
    """

    def __init__(self, hosts: Iterable[str], setting: str) -> None:
        """Parse the hosts, as in 'login.internal:443'; `setting` is the name of their setting for error messages.

        Raises:
            InvalidAddress: a host is invalid.
        """
        self._hosts = frozenset(map(parse_target, hosts))
        self._setting = setting

    def check(self, text: str) -> Url:
        """Return the parsed URL.

        Raises:
            InvalidAddress: it is not a URL, or its host is disguised.
            AddressNotAllowed: the URL is not allowed.
        """
        url = parse_url(text)
        target = url.target
        entry = f"[{target.host}]:{target.port}" if ":" in target.host else f"{target.host}:{target.port}"
        if target.host in METADATA_NAMES:
            raise AddressNotAllowed(f"{text[:200]!r} is a cloud's metadata")
        if target not in self._hosts and url.scheme != "https":
            raise AddressNotAllowed(
                f"{text[:200]!r} is fetched over https only ({self._setting} can name {entry!r} as one that may speak "
                "http)"
            )
        if target.ip is not None and not self.allows(target.ip, target):
            raise AddressNotAllowed(f"{text[:200]!r} is inside this network ({self._setting} can allow {entry!r})")
        return url

    def allows(self, ip: Ip, target: EgressTarget) -> bool:
        """Return whether a target can have this IP address.

        Public addresses are allowed for all targets, and addresses that are not forbidden for hosts in the setting.
        """
        return is_public(ip) or (target in self._hosts and not is_forbidden(ip))


def checked_connector(allowed: FetchTarget, target: EgressTarget) -> aiohttp.TCPConnector:
    """Return a connector for one connection to this target.

    It resolves a name once and connects to a checked address, so DNS rebinding has no effect.
    """

    def checked_socket(info: aiohttp.AddrInfoType) -> socket.socket:
        _check_ip(str(info[4][0]), allowed, target)
        return socket.socket(family=info[0], type=info[1], proto=info[2])

    return aiohttp.TCPConnector(
        resolver=_CheckedResolver(allowed, target), socket_factory=checked_socket, force_close=True
    )


class _CheckedResolver(AbstractResolver):
    """Resolves names, and rejects a name if any of its addresses is not allowed."""

    def __init__(self, allowed: FetchTarget, target: EgressTarget) -> None:
        self._allowed = allowed
        self._target = target
        self._inner = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: AddressFamily = AddressFamily.AF_INET
    ) -> list[ResolveResult]:
        results = await self._inner.resolve(host, port, family)
        for result in results:
            _check_ip(result["host"], self._allowed, self._target)
        return results

    async def close(self) -> None:
        await self._inner.close()


def _check_ip(address: str, allowed: FetchTarget, target: EgressTarget) -> None:
    ip = ipaddress.ip_address(address.partition("%")[0])
    if not allowed.allows(ip, target):
        raise OSError(errno.EACCES, f"{target.host} is {ip}, which is inside this network or reserved")
