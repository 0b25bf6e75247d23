"""Lua scripts of the counters: each is one atomic step of the protocol in docs/concepts/metering.md.

`lua/prelude.lua` is prepended to each script, and describes the keys and fields.
"""

from __future__ import annotations

from importlib import resources

FOLDER = resources.files("drw.billing.counters") / "lua"
PRELUDE = (FOLDER / "prelude.lua").read_text(encoding="utf-8")


def _script(name: str) -> str:
    return PRELUDE + (FOLDER / f"{name}.lua").read_text(encoding="utf-8")


RESERVE = _script("reserve")
ADVANCE = _script("advance")
SETTLE = _script("settle")
RENEW = _script("renew")
REGISTER = _script("register")
END = _script("end")
LEAVE = _script("leave")
EXPIRED = _script("expired")
SURVEY = _script("survey")
LOAD = _script("load")
OPEN = _script("open")
CAPS = _script("caps")
POST = _script("post")
POSTED = _script("posted")
PEEK = _script("peek")
TOKENS = _script("tokens")
