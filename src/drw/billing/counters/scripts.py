"""Lua scripts of the counters: each is one atomic step of the protocol in docs/concepts/metering.md.

`lua/prelude.lua` is prepended to each script, and describes the keys and fields.
"""

from __future__ import annotations

from importlib import resources

FOLDER = resources.files("drw.billing.counters") / "lua"
PRELUDE = (FOLDER / "prelude.lua").read_text(encoding="utf-8")


def _script(name: str) -> str:
    return PRELUDE + (FOLDER / f"{name}.lua").read_text(encoding="utf-8")


RESERVE = _script("reservations/reserve")
ADVANCE = _script("reservations/advance")
SETTLE = _script("reservations/settle")
REGISTER = _script("leases/register")
RENEW = _script("leases/renew")
END = _script("leases/end")
LEAVE = _script("leases/leave")
EXPIRED = _script("leases/expired")
SURVEY = _script("rebuild/survey")
LOAD = _script("rebuild/load")
OPEN = _script("rebuild/open")
CAPS = _script("subjects/caps")
TOKENS = _script("subjects/tokens")
PEEK = _script("subjects/peek")
POST = _script("postings/post")
POSTED = _script("postings/posted")
