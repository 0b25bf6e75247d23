"""Endpoints of versions: permitted addresses and keys, and the digest of an endpoint."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from drw.api.models.v1.versions_pb2 import VersionEndpoint
from drw.egress.allowlist import AddressNotAllowed, EgressAllowlist
from drw.kernel.errors import Forbidden, InvalidRequest
from drw.models.discovery.versions.identity import DIGEST

SCHEMA = "drw-model-endpoint/1"


class EndpointRules:
    """Which addresses versions may have as endpoints, and which keys may be sent to them.

    Args:
        allowed: entries of `EgressAllowlist`.
        keys: addresses to which the key in an environment variable may be sent, by the name of the variable.
    """

    def __init__(self, allowed: Sequence[str], keys: Mapping[str, Sequence[str]]) -> None:
        self._allowed = EgressAllowlist(allowed)
        self._keys = {variable: EgressAllowlist(entries) for variable, entries in keys.items()}

    async def check(self, endpoint: VersionEndpoint) -> None:
        """Check the addresses and the key of an endpoint.

        Raises:
            InvalidRequest: an address is malformed or not allowed.
            Forbidden: the key may not be sent to an address.
        """
        for url in endpoint.base_urls:
            if not url.startswith(("http://", "https://", "unix:/")):
                raise InvalidRequest(f"{url!r} must be like 'https://host/v1' or 'unix:/path'", param="endpoint")
            try:
                await self._allowed.check_resolved(url)
            except AddressNotAllowed as error:
                message = error.message.replace("load_balancer.allowed_upstreams", "discovery.allowed_endpoints")
                raise InvalidRequest(message, param="endpoint") from error
            if endpoint.api_key_variable:
                self._check_key(endpoint.api_key_variable, url)

    def _check_key(self, variable: str, url: str) -> None:
        try:
            if variable in self._keys:
                self._keys[variable].check(url)
                return
        except AddressNotAllowed:
            pass
        raise Forbidden(
            f"the key in {variable!r} may not be sent to {url!r} (the setting discovery.endpoint_keys)",
            param="endpoint",
        )


def canonical(endpoint: VersionEndpoint) -> dict[str, Any]:
    """Return an endpoint as JSON values, with normalised addresses."""
    return {
        "base_urls": [url.rstrip("/") for url in endpoint.base_urls],
        "upstream_model": endpoint.upstream_model,
        "api_key_variable": endpoint.api_key_variable,
        "context_length": endpoint.context_length,
    }


def digest(kind: str, engine: str, description: Mapping[str, Any]) -> str:
    """Return the digest of an endpoint's or configured model's canonical description."""
    value = {"schema": SCHEMA, "kind": kind, "engine": engine, "description": description}
    return DIGEST + hashlib.sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).hexdigest()
