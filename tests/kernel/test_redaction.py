"""Redaction of secrets, email addresses and account numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drw.kernel.observability.redaction import MAX_SECRET_LENGTH, excerpt, redacted

JWT = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJrZXlfMSJ9.c2lnbmF0dXJl"
PEM = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIBLF\nabc=\n-----END EC PRIVATE KEY-----"
AWS, GITHUB = "AKIA" + "IOSFODNN7EXAMPLE", "ghp_" + "a1" * 18
SECRETS = [
    ("private key", PEM),
    ("token", JWT),
    ("key", "sk-proj-abcdef0123456789"),
    ("key", GITHUB),
    ("key", AWS),
    ("credentials", "Bearer abcdef.012345"),
    ("credentials", "trader:hunter22@db"),
    ("secret", "api_key: hunter22"),
    ("secret", 'PASSWORD="hunter22"'),
    ("secret", '"password": "hunter22 two words"'),
    ("secret", r'"password": "hunter22 \"two\" words"'),
    ("secret", r"{\"password\":\"hunter22\"}"),
    ("secret", r"{\"password\": \"hunter22 two \\\"words\"}"),
    ("secret", "passphrase = 'two words'"),
    ("key", "gsk_abcdef0123456789"),
    ("key", "xai-abcdef0123456789"),
    ("secret", "client_secret=hunter22"),
    ("email", "ann.smith+desk@example.co.uk"),
    ("account", "CH93 0076 2011 6238 5295 7"),
    ("account", "DE89370400440532013000"),
    ("account", "ch93 0076 2011 6238 5295 7"),
    ("account", "gb29nwbk60161331926819"),
    ("number", "4111 1111 1111 1111"),
    ("number", "4111.1111.1111.1111"),
    ("number", "+1 (212) 555-0100"),
    ("number", "+1.212.555.0100"),
    ("number", "4111-1111-1111-1111"),
    ("number", "078-05-1120"),
    ("number", "+41 44 668 18 00"),
]
ORDINARY_TEXTS = [
    "Who signs a waiver of a risk limit above USD 2,500,000.00?",
    "On 2026-02-11 VaR was 12.75 million, 3.1% over the limit of 12,366,500.",
    "The desk's password policy has 14 pages; tokens are counted by the engine.",
    "Closed at 101.25 102.50 103.75 after 1234567.89; fy26 plan with more; the address is 10.20.0.7.",
    "risk-adjusted skew, ask price 101.25, isin-like words and a@b",
]


@pytest.mark.parametrize(("kind", "secret"), SECRETS)
def test_a_secret_is_replaced_by_its_kind(kind: str, secret: str) -> None:
    text = f"before {secret} after" if "@db" not in secret else f"postgres://{secret}/x"
    redacted_text = redacted(text)
    assert f"[redacted: {kind}]" in redacted_text
    for part in (secret, "hunter22", "words", "MHcCAQEEIBLF"):
        assert part not in redacted_text
    assert redacted_text.startswith(text[:7])


@pytest.mark.parametrize("text", ORDINARY_TEXTS)
def test_ordinary_text_is_unchanged(text: str) -> None:
    assert redacted(text) == text


@given(
    st.integers(0, 3 * MAX_SECRET_LENGTH),
    st.integers(0, 2 * MAX_SECRET_LENGTH),
    st.sampled_from([s for _, s in SECRETS[:5]]),
)
def test_an_excerpt_never_contains_a_part_of_a_secret(before: int, max_length: int, secret: str) -> None:
    result = excerpt(f"{'x ' * (before // 2)}{secret} {'y ' * MAX_SECRET_LENGTH}", max_length)
    assert secret[:12] not in result
    assert secret[-12:] not in result
    assert len(result) <= max_length + 40


@pytest.mark.parametrize("part", ["aA1-_@.: ", 'token: "', "password=\\", "1.1.", "( 1) ", "ch93 0000 "])
def test_long_texts_are_matched_in_linear_time(part: str) -> None:
    assert redacted(part * 60_000)  # a pattern that backtracks would exceed the timeout of the test
