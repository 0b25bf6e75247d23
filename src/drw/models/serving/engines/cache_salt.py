"""Salt for caches that outlive a request: two tenants never share an entry, and none can guess another's salt."""

from __future__ import annotations

import secrets
from hashlib import blake2b

from drw.kernel.rpc.context import Principal

_PROCESS_KEY = secrets.token_bytes(32)


def cache_salt(principal: Principal | None, key: str = "") -> str:
    """Return what every key of a cache starts with: a keyed hash of the caller's org, desk and walls, 32 hex digits.

    Without a `key` the salt is good for this process only. Processes that share a cache, such as a vLLM behind
    several replicas, share a secret key. None stands for the platform itself.
    """
    secret = blake2b(key.encode()).digest() if key else _PROCESS_KEY
    parts = ["tenant", principal.org, principal.desk, *sorted(principal.walls)] if principal else ["platform"]
    text = b"".join(b"%d:%b" % (len(part), part) for part in map(str.encode, parts))
    return blake2b(text, key=secret, digest_size=16).hexdigest()
