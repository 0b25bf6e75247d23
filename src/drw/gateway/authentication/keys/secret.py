"""The secret that encrypts private keys: weak secrets are rejected."""

from __future__ import annotations

SHORTEST, LONGEST = 32, 1024
DISTINCT = 10
HOW = (
    "make one with `python -c 'import secrets; print(secrets.token_urlsafe(48))'`, "
    "and give it as DRW__AUTHENTICATION__SECRET"
)

PLACEHOLDERS = (
    "changeme",
    "change-me",
    "change_me",
    "password",
    "passw0rd",
    "placeholder",
    "insecure",
    "example",
    "default",
    "secretsecret",
    "supersecret",
    "yoursecret",
    "your-secret",
    "your_secret",
    "qwerty",
)
"""Words in placeholder secrets. A random secret contains one with a probability of one in ten million."""


def why_weak(secret: str) -> str:
    """Return the problem of a secret without revealing it; empty: none."""
    if not secret:
        return f"is missing; {HOW}"
    if len(secret) < SHORTEST:
        return f"has {len(secret)} characters; it needs {SHORTEST} at least: {HOW}"
    if len(secret) > LONGEST:
        return f"has {len(secret)} characters; it can have {LONGEST} at most"
    if not secret.isascii() or not secret.isprintable() or secret != secret.strip():
        return f"has characters that get lost on the way; letters, digits and signs of ASCII are good: {HOW}"
    if any(word in secret.lower() for word in PLACEHOLDERS):
        return f"is a placeholder that everybody knows; {HOW}"
    if len(set(secret)) < DISTINCT or _repeats(secret) or _runs(secret):
        return f"is too regular to be a secret; {HOW}"
    return ""


def _repeats(text: str) -> bool:
    """Return whether the text repeats a shorter one."""
    return text in (text + text)[1:-1]


def _runs(text: str) -> bool:
    """Return whether most characters follow from the one before, as in "abcdef" or "987654"."""
    steps = [ord(b) - ord(a) for a, b in zip(text, text[1:], strict=False)]
    return sum(step in (-1, 0, 1) for step in steps) * 2 > len(steps)
