"""SSRF checks of outbound HTTP: URLs in all notations, and the addresses of connections."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import AsyncIterator
from socket import AddressFamily, SocketKind

import aiohttp
import pytest

from drw.egress.addresses import EgressTarget, InvalidAddress, parse_url
from drw.egress.ip_ranges import is_forbidden, is_public
from drw.gateway.authentication.adapters.outbound_http import FetchTarget, checked_connector
from drw.kernel.errors import InvalidRequest

TARGET = FetchTarget(["login.firm:443", "127.0.0.1:8081", "[fd12::1]:443", "169.254.169.254:80"], "the.setting")


@pytest.mark.parametrize(
    ("url", "normalised"),
    [
        ("https://idp.example/keys", "https://idp.example/keys"),
        ("https://IDP.example", "https://idp.example/"),
        ("https://idp.example:8443/a%20b?p=x%2Fy", "https://idp.example:8443/a%20b?p=x%2Fy"),
        ("https://xn--bcher-kva.example/", "https://xn--bcher-kva.example/"),
        ("https://8.8.8.8/", "https://8.8.8.8/"),
        ("https://[2606:4700::1111]/", "https://[2606:4700::1111]/"),
        ("https://[64:ff9b::808:808]/", "https://[64:ff9b::808:808]/"),
        ("https://login.firm/", "https://login.firm/"),
        ("http://login.firm:443/", "http://login.firm:443/"),
        ("http://127.0.0.1:8081/keys", "http://127.0.0.1:8081/keys"),
        ("https://[fd12::1]/", "https://[fd12::1]/"),
    ],
)
def test_urls_of_public_hosts_and_of_the_setting_are_allowed(url: str, normalised: str) -> None:
    assert str(TARGET.check(url)) == normalised


@pytest.mark.parametrize(
    "url",
    [
        "",
        "idp.example",
        "ftp://idp.example/",
        "file:///etc/passwd",
        "https:/idp.example",
        "https:///idp.example",
        "HTTPS://idp.example/",
        "https://①②⑦.⓪.⓪.①/",
        "https://１２７.0.0.1/",
        "https://127。0。0。1/",
        "https://ⓛocalhost/",
        "https://bücher.example/",
        "https://127.0.0.1\u200b/",
        "https://127.1/",
        "https://2130706433/",
        "https://0x7f000001/",
        "https://0x7f.1/",
        "https://0177.0.0.1/",
        "https://127.0.0.1./",
        "https://idp.example./",
        "https://user@idp.example/",
        "https://user:word@idp.example/",
        "https://idp.example@127.0.0.1/",
        "https://idp.example%40127.0.0.1/",
        "https://%31%32%37.0.0.1/",
        "https://idp.example\\@127.0.0.1/",
        "https://idp.example/\\x",
        "https://idp.example#@127.0.0.1/",
        "https://idp.example/#x",
        "https://idp.example /",
        "https://idp.example/ x",
        "https://idp.example/\r\nx: y",
        "https://idp.example/ä",
        "https://idp.example:0/",
        "https://idp.example:65536/",
        "https://idp.example:x/",
        "https://idp.example:/",
        "https://idp.example:8_0/",
        "https://[::1%25eth0]/",
        "https://[fe80::1%eth0]/",
        "https://[127.0.0.1]/",
        "https://::1/",
        "https://idp..example/",
        "https://-idp.example/",
        "https://idp_.example/",
        "https://idp.example/" + "x" * 500,
    ],
)
def test_invalid_urls_are_rejected(url: str) -> None:
    with pytest.raises(InvalidAddress):
        parse_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://idp.example/",
        "https://127.0.0.1/",
        "https://127.0.0.1:8082/",
        "https://10.1.2.3/",
        "https://100.64.0.1/",
        "https://192.168.1.1/",
        "https://192.88.99.1/",
        "https://240.0.0.1/",
        "https://[::1]/",
        "https://[::]/",
        "https://[::127.0.0.1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://[::ffff:0:127.0.0.1]/",
        "https://[64:ff9b::127.0.0.1]/",
        "https://[64:ff9b::10.0.0.1]/",
        "https://[64:ff9b:1::8.8.8.8]/",
        "https://[2002:7f00:1::]/",
        "https://[2002:a9fe:a9fe::]/",
        "https://[2001:0:808:808::80ff:fffe]/",
        "https://[2001:db8::1]/",
        "https://[2606:4700::5efe:7f00:1]/",
        "https://[2606:4700::200:5efe:a00:1]/",
        "https://[fd12::2]/",
        "https://[fec0::1]/",
        "https://[5f00::1]/",
        # In the setting, but always forbidden.
        "http://169.254.169.254:80/",
        "https://metadata.google.internal/",
    ],
)
def test_urls_of_internal_addresses_are_rejected(url: str) -> None:
    with pytest.raises(InvalidRequest):
        TARGET.check(url)


@pytest.mark.parametrize(
    ("address", "forbidden", "public"),
    [
        ("8.8.8.8", False, True),
        ("10.0.0.1", False, False),
        ("127.0.0.1", False, False),
        ("169.254.1.1", True, False),
        ("224.0.0.1", True, False),
        ("64:ff9b::a9fe:a9fe", True, False),
        ("::a9fe:a9fe", True, False),
        ("::ffff:0:a9fe:a9fe", True, False),
        ("2002:a9fe:a9fe::1", True, False),
        ("2606:4700::5efe:a9fe:a9fe", True, False),
        ("64:ff9b:1::808:808", True, False),
        ("2606:4700::1", False, True),
        ("::1", False, False),
    ],
)
def test_an_address_is_checked_by_its_embedded_addresses(address: str, forbidden: bool, public: bool) -> None:
    ip = ipaddress.ip_address(address)
    assert (is_forbidden(ip), is_public(ip)) == (forbidden, public)


@pytest.fixture
async def listening() -> AsyncIterator[tuple[int, list[object]]]:
    """A port on this machine, and its connections."""
    arrived: list[object] = []

    def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        arrived.append(writer)
        writer.close()

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1], arrived
    server.close()


async def test_connections_to_unchecked_addresses_are_rejected(
    listening: tuple[int, list[object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    port, arrived = listening

    def rebound(
        host: str, *_: object, **__: object
    ) -> list[tuple[AddressFamily, SocketKind, int, str, tuple[str, int]]]:
        answers = ["8.8.8.8", "127.0.0.1"] if host == "half.example" else ["127.0.0.1"]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port)) for ip in answers]

    monkeypatch.setattr(socket, "getaddrinfo", rebound)
    for host in ("rebound.example", "half.example", "127.0.0.1"):  # an IP address is not resolved
        connecting = checked_connector(TARGET, EgressTarget(host="idp.example", port=port))
        async with aiohttp.ClientSession(connector=connecting) as session:
            with pytest.raises(aiohttp.ClientConnectorError, match="inside this network"):
                await session.get(f"http://{host}:{port}/")
    assert arrived == []
    listed = FetchTarget([f"rebound.example:{port}"], "the.setting")
    connecting = checked_connector(listed, EgressTarget(host="rebound.example", port=port))
    async with aiohttp.ClientSession(connector=connecting) as session:
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await session.get(f"http://rebound.example:{port}/")
    assert arrived
