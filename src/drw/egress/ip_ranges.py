"""Classes of IP addresses: forbidden, public, and IPv4 embedded in IPv6.

Routers can translate or tunnel an IPv6 address to the IPv4 address embedded in it, so both must be checked.
"""

from __future__ import annotations

import ipaddress

Ip = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

FORBIDDEN = tuple(
    ipaddress.ip_network(network)
    for network in (
        "0.0.0.0/8",
        "169.254.0.0/16",  # link-local, and the metadata of most clouds
        "100.100.100.200/32",  # the metadata of Alibaba Cloud
        "168.63.129.16/32",  # the host of an Azure machine
        "192.0.0.192/32",  # the metadata of Oracle Cloud
        "224.0.0.0/4",
        "255.255.255.255/32",
        "::/128",
        "64:ff9b:1::/48",  # NAT64 of the local network (RFC 8215): the translator selects the destination
        "fe80::/10",
        "fec0::/10",  # site-local, deprecated
        "fd00:ec2::254/128",  # the metadata of AWS by IPv6
        "fd20:ce::254/128",  # the metadata of Google Cloud by IPv6
        "ff00::/8",
    )
)
"""Networks that no setting can allow."""

NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
SIIT = ipaddress.IPv6Network("::ffff:0:0:0/96")
COMPATIBLE = ipaddress.IPv6Network("::/96")
IPV4_IN_LAST_32_BITS = (NAT64, SIIT, COMPATIBLE)
ISATAP = (0x00005EFE, 0x02005EFE)
"""The third quarter of an ISATAP address (RFC 5214); the fourth is an IPv4 address."""

GLOBAL = ipaddress.IPv6Network("2000::/3")
"""Global unicast addresses (RFC 4291)."""

RELAYS = ipaddress.IPv4Network("192.88.99.0/24")
"""Relay routers of 6to4 (RFC 7526)."""


def embedded(ip: Ip) -> list[Ip]:
    """Return the addresses that a request can reach: the embedded IPv4 addresses, or the address itself."""
    if isinstance(ip, ipaddress.IPv4Address):
        return [ip]
    if ip.is_loopback or ip.is_unspecified:
        return [ip]
    addresses: list[Ip] = [
        address for address in (ip.ipv4_mapped, ip.sixtofour, *(ip.teredo or ())) if address is not None
    ]
    if any(ip in network for network in IPV4_IN_LAST_32_BITS) or (int(ip) >> 32) & 0xFFFFFFFF in ISATAP:
        addresses.append(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF))
    return addresses or [ip]


def is_forbidden(ip: Ip) -> bool:
    """Return whether no setting can allow this address: link-local, metadata, multicast, unspecified."""
    return any(address in network for address in (ip, *embedded(ip)) for network in FORBIDDEN)


def is_public(ip: Ip) -> bool:
    """Return whether an address and its embedded addresses are public."""
    if is_forbidden(ip):
        return False
    if isinstance(ip, ipaddress.IPv4Address):
        return ip.is_global and not ip.is_multicast and ip not in RELAYS
    if ip not in GLOBAL and ip not in NAT64:
        return False
    return ip.is_global and all(is_public(address) for address in embedded(ip) if address != ip)
