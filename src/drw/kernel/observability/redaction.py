"""Redaction of secrets, email addresses, account and card numbers in text.

The patterns prefer false positives: ten digits can be a card or a quantity. Secrets without a pattern, such as
passphrases, are not found, so redacted text is still confidential.
"""

from __future__ import annotations

import re

PATTERNS = {
    "private key": r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,40}PRIVATE KEY-----|\Z)",
    "token": r"\beyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)?",  # a JWT, as our own keys are
    "key": r"\b(?:sk|pk|rk|gsk|xai)[-_][\w-]{8,}"
    r"|\b(?:gh[opsur]|github_pat|glpat|hf|npm|pypi|xox[abeoprs]|dop_v1)[-_][\w-]{8,}"
    r"|\b(?:AKIA|ASIA)[A-Z0-9]{12,}|\bAIza[\w-]{20,}|\bya29\.[\w-]{8,}",
    "credentials": r"(?i:\b(?:bearer|basic)\s{1,4}[\w.~+/=-]{8,})|(?<=://)[^\s/@:]{1,100}:[^\s/@]{1,200}(?=@)",
    "secret": r"(?i:(?:api[_-]?key|secret|passwor[dt]|passwd|passphrase|token|credential)[\w-]{0,20}"
    r"(?:\\{0,3}[\"'])?\s{0,4}(?::=|[:=])\s{0,4}"
    # To the closing quote, with the same number of backslashes as the opening one: JSON can be nested in JSON.
    r"(?:(?P<quote>\\{0,3}[\"'])(?:(?!(?<!\\)(?P=quote)).){1,1000}|[^\s\"',;]{4,}))",
    "email": r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})+",
    "account": r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b"  # an IBAN
    r"|(?i:\b[a-z]{2}\d{2} ?[a-z0-9]{4}(?: ?\d{4}){1,6} ?\d{1,4}\b)",  # in lower case, with more digits
    # Card, account, social security and telephone numbers. Dots match only between groups, because prices have dots.
    "number": r"(?<![\w.])\+?\d(?:[ ()-]{0,2}\d){8,}(?![\w.]\d)"
    r"|(?<![\w.])\+?(?=(?:\.?\d){9})\d{1,4}(?:\.\d{2,4}){2,6}(?![\w.]\d)",
}
"""Patterns in the order of application; `[redacted: NAME]` replaces a match."""

ANY_PATTERN = re.compile("|".join(f"(?P<{name.replace(' ', '_')}>{p})" for name, p in PATTERNS.items()), re.DOTALL)

TOKEN = re.compile(PATTERNS["token"])
MAX_SECRET_LENGTH = 4096
"""Maximum length of a secret. A truncated text loses this many more characters, which can be a part of a secret."""


def redacted(text: str) -> str:
    """Return the text with matches replaced by `[redacted: NAME]`."""
    return ANY_PATTERN.sub(lambda match: f"[redacted: {(match.lastgroup or '').replace('_', ' ')}]", text)


def without_tokens(text: str) -> str:
    """Return the text with API keys redacted."""
    return TOKEN.sub("[redacted: token]", text)


def excerpt(text: str, max_length: int) -> str:
    """Return at most `max_length` characters of the text, redacted, without a partial secret at the end."""
    if len(text) <= max_length:
        return redacted(text)[:max_length]
    clean = redacted(text[: max_length + MAX_SECRET_LENGTH])
    return f"{clean[: max(0, min(max_length, len(clean) - MAX_SECRET_LENGTH))]}[... {len(text)} characters]"
