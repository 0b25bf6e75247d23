"""The secret that encrypts private keys: weak secrets are rejected."""

from __future__ import annotations

MIN_LENGTH, MAX_LENGTH = 32, 1024
MIN_DISTINCT = 10
HOW_TO_GENERATE = (
    "generate one with `python -c 'import secrets; print(secrets.token_urlsafe(48))'`, "
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


def weakness(secret: str) -> str:
    """Return the weakness of a secret without revealing it; empty: the secret is strong."""
    if not secret:
        return f"is missing; {HOW_TO_GENERATE}"
    if len(secret) < MIN_LENGTH:
        return f"has {len(secret)} characters; it needs {MIN_LENGTH} at least: {HOW_TO_GENERATE}"
    if len(secret) > MAX_LENGTH:
        return f"has {len(secret)} characters; it can have {MAX_LENGTH} at most"
    if not secret.isascii() or not secret.isprintable() or secret != secret.strip():
        return f"has characters that are not printable ASCII, or blanks at an end: {HOW_TO_GENERATE}"
    if any(word in secret.lower() for word in PLACEHOLDERS):
        return f"is a well-known placeholder; {HOW_TO_GENERATE}"
    if len(set(secret)) < MIN_DISTINCT or _is_repetition(secret) or _is_sequence(secret):
        return f"is too regular to be a secret; {HOW_TO_GENERATE}"
    return ""


def _is_repetition(text: str) -> bool:
    """Return whether the text repeats a shorter one."""
    return text in (text + text)[1:-1]


def _is_sequence(text: str) -> bool:
    """Return whether most characters follow from the one before, as in "abcdef" or "987654"."""
    steps = [ord(b) - ord(a) for a, b in zip(text, text[1:], strict=False)]
    return sum(step in (-1, 0, 1) for step in steps) * 2 > len(steps)
