"""Cache salts: tenants never share a cache entry, and cannot guess the salt of another tenant."""

from __future__ import annotations

import secrets
from hashlib import blake2b

from drw.kernel.rpc.context import Principal

_PROCESS_KEY = secrets.token_bytes(32)


def cache_salt(principal: Principal | None, key: str = "") -> str:
    """Return the prefix of cache keys: a keyed hash of the caller's org, desk and walls, 32 hex digits.

    Without `key` the salt is valid in this process only. Processes that share a cache, such as a vLLM server behind
    several serving processes, share a secret key. The principal None is the platform itself.
    """
    secret = blake2b(key.encode()).digest() if key else _PROCESS_KEY
    parts = ["tenant", principal.org, principal.desk, *sorted(principal.walls)] if principal else ["platform"]
    text = b"".join(b"%d:%b" % (len(part), part) for part in map(str.encode, parts))
    return blake2b(text, key=secret, digest_size=16).hexdigest()
