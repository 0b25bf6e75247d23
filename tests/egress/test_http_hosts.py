"""The allow-list of hosts that templates call: exact origins, and the addresses of their names."""

from __future__ import annotations

import ipaddress

import pytest

from drw.egress.addresses import InvalidAddress, parse_url
from drw.egress.allowlist import AddressNotAllowed
from drw.egress.http_hosts import HttpHosts

HOSTS = HttpHosts(
    ["api.broker.example", "risk.internal:8443", "http://10.0.0.7:8080", "169.254.169.254", "metadata.google.internal"],
    ["10.20.0.0/16"],
)


@pytest.mark.parametrize(
    "url", ["https://api.broker.example/v1?x=1", "https://API.broker.example:443/", "http://10.0.0.7:8080/"]
)
def test_listed_origins_are_allowed(url: str) -> None:
    HOSTS.check(parse_url(url))


@pytest.mark.parametrize(
    "url",
    [
        "http://api.broker.example/",
        "https://api.broker.example:8443/",
        "https://risk.internal/",
        "https://evil.api.broker.example/",
        "https://api.broker.example.evil.example/",
        "https://10.0.0.7:8080/",
        "http://[::ffff:10.0.0.7]:8080/",
        "https://169.254.169.254/",  # listed, and still forbidden
        "https://metadata.google.internal/",
    ],
)
def test_other_origins_and_metadata_are_refused(url: str) -> None:
    with pytest.raises(AddressNotAllowed):
        HOSTS.check(parse_url(url))


@pytest.mark.parametrize("address", ["93.184.216.34", "10.20.3.4", "2606:2800:220:1:248:1893:25c8:1946"])
def test_a_name_can_resolve_to_public_and_listed_addresses(address: str) -> None:
    HOSTS.check_address("api.broker.example", 443, ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.0.0.7", "10.21.0.1", "192.168.1.1", "100.64.0.1", "0.0.0.0", "169.254.169.254"),
        *("::1", "fe80::1", "fd00:ec2::254", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe"),
        *("2002:7f00:1::", "::127.0.0.1", "fc00::1", "224.0.0.1", "255.255.255.255"),
    ],
)
def test_a_name_cannot_resolve_to_other_addresses(address: str) -> None:
    with pytest.raises(AddressNotAllowed):
        HOSTS.check_address("api.broker.example", 443, ipaddress.ip_address(address))


def test_a_listed_address_is_allowed_for_names_at_its_port() -> None:
    HOSTS.check_address("risk.internal", 8080, ipaddress.ip_address("10.0.0.7"))


@pytest.mark.parametrize("entry", ["*.example", "10.0.0.0/8", "https://x.example/path", "a b", "http://u@x", "", "x?y"])
def test_an_entry_is_one_exact_host(entry: str) -> None:
    with pytest.raises(InvalidAddress):
        HttpHosts([entry])
