"""Money in whole nano-dollars (1e-9 USD), and what tokens cost.

Whole numbers below 2**53 stay exact in the doubles of Lua, which is what bounds `MAX_USD`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from drw.kernel.errors import InvalidRequest

NANO = 1_000_000_000
MAX_USD = 9_000_000
MAX_NANO = MAX_USD * NANO
MAX_TOKENS = 1_000_000_000_000
PER_TOKENS = 1_000_000
"""The tokens that a price is for."""

DECIMAL = re.compile(r"(\d{1,7})(?:\.(\d{1,9}))?")


def from_usd(text: str, param: str, *, least: int = 0) -> int:
    """Return the nano-dollars in a decimal string, as in "12.50".

    Raises:
        InvalidRequest: it is no such string, or out of bounds.
    """
    if not (match := DECIMAL.fullmatch(text)):
        raise InvalidRequest(f"{param} is {text!r}; write dollars as in '12.50', at most 9 decimals", param=param)
    nano = int(match[1]) * NANO + int((match[2] or "").ljust(9, "0"))
    if not least <= nano <= MAX_NANO:
        raise InvalidRequest(f"{param} is {text!r}; it can be {to_usd(least)} to {MAX_USD}", param=param)
    return nano


def to_usd(nano: int) -> str:
    """Return nano-dollars as a decimal string with at least two decimals."""
    sign, (whole, rest) = "-" * (nano < 0), divmod(abs(nano), NANO)
    decimals = f"{rest:09d}".rstrip("0").ljust(2, "0")
    return f"{sign}{whole}.{decimals}"


@dataclass(frozen=True, slots=True)
class Price:
    """What a million tokens cost, in nano-dollars."""

    prompt: int = 0
    completion: int = 0

    def cost(self, prompt_tokens: int, completion_tokens: int) -> int:
        """Return what a request costs in nano-dollars, rounded up once."""
        return -(-(prompt_tokens * self.prompt + completion_tokens * self.completion) // PER_TOKENS)

    def completions_within(self, nano: int, prompt_tokens: int) -> int | None:
        """Return the most completion tokens that cost no more than `nano` with their prompt; None: any number."""
        if not self.completion:
            return None
        return max(0, (nano * PER_TOKENS - prompt_tokens * self.prompt) // self.completion)


FREE = Price()
