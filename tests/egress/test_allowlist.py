"""The egress allow-list with addresses in all notations."""

from __future__ import annotations

import pytest

from drw.egress.addresses import InvalidAddress
from drw.egress.allowlist import AddressNotAllowed, EgressAllowlist, resolve

NAMES = {
    "vllm.internal": ["172.16.0.7"],
    "a.svc.cluster.local": ["192.168.3.4"],
    "evil.svc.cluster.local": ["169.254.169.254"],
    "half.svc.cluster.local": ["192.168.3.4", "::ffff:169.254.169.254"],
    "rebound.svc.cluster.local": ["127.0.0.1"],
    "in-network.example": ["10.2.2.2"],
}
LIST = ("10.0.0.0/8", "vllm.internal:8000", "*.svc.cluster.local", "unix:/run/vllm/*", "unix:/run/one", "[fd12::]:80")


async def double_resolve(name: str) -> list[str]:
    return NAMES.get(name, [])


def allowlist(*entries: str) -> EgressAllowlist:
    return EgressAllowlist(entries or LIST, double_resolve)


@pytest.mark.parametrize(
    "address",
    [
        "10.1.2.3:80",
        "[::ffff:10.1.2.3]:80",
        "http://10.1.2.3",
        "https://10.1.2.3:8443/v1",
        "vllm.internal:8000",
        "VLLM.internal:8000",
        "a.svc.cluster.local:1",
        "not-there-yet.svc.cluster.local:1",
        "unix:/run/vllm/a.sock",
        "unix:/run/one",
        "[fd12::]:80",
    ],
)
async def test_addresses_on_the_list_are_allowed(address: str) -> None:
    await allowlist().check_resolved(address)


@pytest.mark.parametrize(
    "address",
    [
        "11.1.2.3:80",
        "127.0.0.1:80",
        "[::1]:80",
        "[::ffff:127.0.0.1]:80",
        "vllm.internal:8001",
        "evilvllm.internal:8000",
        "svc.cluster.local:1",
        "nowhere.example:80",
        "in-network.example:443",
        "rebound.svc.cluster.local:80",
        "unix:/run/vllm/",
        "unix:/run/vllm",
        "unix:/run/one/more",
        "unix:/run/other",
        "localhost:80",
    ],
)
async def test_addresses_not_on_the_list_are_rejected(address: str) -> None:
    with pytest.raises(AddressNotAllowed):
        await allowlist().check_resolved(address)


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254:80",
        "http://169.254.169.254/latest/meta-data",
        "[::ffff:169.254.169.254]:80",
        "[::ffff:a9fe:a9fe]:80",
        "[64:ff9b::a9fe:a9fe]:80",
        "[2002:a9fe:a9fe::]:80",
        "[fe80::1]:80",
        "[fd00:ec2::254]:80",
        "100.100.100.200:80",
        "0.0.0.0:80",
        "[::]:80",
        "224.0.0.1:80",
        "255.255.255.255:80",
        "metadata.google.internal:80",
        "evil.svc.cluster.local:80",
        "half.svc.cluster.local:80",
    ],
)
async def test_forbidden_addresses_are_rejected_by_every_list(address: str) -> None:
    everything = allowlist("0.0.0.0/0", "::/0", "*.svc.cluster.local", "metadata.google.internal")
    with pytest.raises(AddressNotAllowed):
        await everything.check_resolved(address)


@pytest.mark.parametrize(
    "address",
    [
        "2130706433:80",
        "0x7f000001:80",
        "0x7f.1:80",
        "0177.0.0.1:80",
        "127.1:80",
        "10.0.0.08:80",
        "http://2852039166/",
        "http://10.0.0.1@169.254.169.254/",
        "user:word@10.0.0.1:80",
        "http://user@10.0.0.1/",
        "10.0.0.1.:80",
        "vllm.internal.:8000",
        "http://10.0.0.1%2f@evil/",
        "[fe80::1%25eth0]:80",
        "10.0.0.1\\@evil:80",
        "10.0.0.1 :80",
        "10.0.0.1:80\n",
        "①⓪.0.0.1:80",
        "10.0.0.1",
        "10.0.0.1:0",
        "10.0.0.1:65536",
        "10.0.0.1:80:80",
        "::1:80",
        "[10.0.0.1]:80",
        "-a.example:80",
        "a..example:80",
        "",
        ":80",
        "file:///etc/passwd",
        "gopher://10.0.0.1:80/",
        "http://10.0.0.1/?x=1",
        "unix:run/one",
        "unix:/run/vllm/../one",
        "unix:/run/vllm//a",
        f"unix:/{'a' * 108}",
        "a" * 400,
    ],
)
async def test_invalid_addresses_are_rejected(address: str) -> None:
    with pytest.raises(InvalidAddress):
        await allowlist("0.0.0.0/0", "::/0", "*.example").check_resolved(address)


def test_an_error_names_the_address_and_the_list() -> None:
    with pytest.raises(AddressNotAllowed, match=r"'8.8.8.8:53' is not allowed; allowed are: '10.0.0.0/8' .*setting"):
        allowlist("10.0.0.0/8").check("8.8.8.8:53")
    with pytest.raises(AddressNotAllowed, match="allowed are: nothing"):
        EgressAllowlist(()).check("8.8.8.8:53")


async def test_a_network_on_the_list_does_not_allow_a_host_name() -> None:
    answers = [["169.254.169.254"], ["10.2.2.2"]]

    async def rebinding(name: str) -> list[str]:
        return answers.pop()

    right = r"a name needs its own entry, as in 'rebind.example:80': networks allow IPs"
    with pytest.raises(AddressNotAllowed, match=right):
        await EgressAllowlist(["10.0.0.0/8"], rebinding).check_resolved("rebind.example:80")
    assert len(answers) == 2  # the resolver was not called
    await EgressAllowlist(["10.0.0.0/8", "rebind.example:80"], rebinding).check_resolved("rebind.example:80")


def test_stored_addresses_are_checked_without_dns() -> None:
    async def nobody(name: str) -> list[str]:
        raise AssertionError(f"{name} was asked for")

    assert EgressAllowlist(["*.example"], nobody).check("a.example:80").host == "a.example"


@pytest.mark.parametrize("entry", ["10.0.0.1/8", "*", "http://x", "a b", "1.2.3", "x:99999", "unix:x", "*.*.x"])
def test_an_invalid_entry_is_rejected(entry: str) -> None:
    with pytest.raises(InvalidAddress):
        EgressAllowlist([entry])


async def test_names_that_resolve_to_this_machine_need_an_entry() -> None:
    assert "127.0.0.1" in await resolve("localhost")
    with pytest.raises(AddressNotAllowed):
        await EgressAllowlist(["127.0.0.0/8"]).check_resolved("localhost:80")
    await EgressAllowlist(["localhost:80"]).check_resolved("localhost:80")
    assert await resolve("nothing.invalid") == []
