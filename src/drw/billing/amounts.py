"""Money in whole nano-dollars (1e-9 USD), and prices of tokens.

Lua's doubles represent integers up to 2**53 exactly, which limits `MAX_USD`.
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
"""Number of tokens that a price is for."""

DECIMAL = re.compile(r"(\d{1,7})(?:\.(\d{1,9}))?")


def from_usd(text: str, param: str, *, minimum: int = 0) -> int:
    """Parse dollars as a decimal string, as in "12.50"; return nano-dollars.

    Raises:
        InvalidRequest: the string is not such a decimal, or out of bounds.
    """
    if not (match := DECIMAL.fullmatch(text)):
        raise InvalidRequest(f"{param} is {text!r}; write dollars as in '12.50', at most 9 decimals", param=param)
    nano = int(match[1]) * NANO + int((match[2] or "").ljust(9, "0"))
    if not minimum <= nano <= MAX_NANO:
        raise InvalidRequest(f"{param} is {text!r}; it can be {to_usd(minimum)} to {MAX_USD}", param=param)
    return nano


def to_usd(nano: int) -> str:
    """Return nano-dollars as a decimal string with at least two decimals."""
    sign, (dollars, fraction) = "-" * (nano < 0), divmod(abs(nano), NANO)
    decimals = f"{fraction:09d}".rstrip("0").ljust(2, "0")
    return f"{sign}{dollars}.{decimals}"


@dataclass(frozen=True, slots=True)
class Price:
    """Price of a million prompt and completion tokens, in nano-dollars."""

    prompt: int = 0
    completion: int = 0

    def cost(self, prompt_tokens: int, completion_tokens: int) -> int:
        """Return the cost of a request in nano-dollars, rounded up once."""
        return -(-(prompt_tokens * self.prompt + completion_tokens * self.completion) // PER_TOKENS)

    def affordable_completion_tokens(self, nano: int, prompt_tokens: int) -> int | None:
        """Return the maximum completion tokens that `nano` pays for together with the prompt; None: no maximum."""
        if not self.completion:
            return None
        return max(0, (nano * PER_TOKENS - prompt_tokens * self.prompt) // self.completion)


FREE = Price()
