"""Formats cell values by Excel number format codes: dates, percentages, currencies, fractions (ECMA-376, 18.8.31).

Built-in formats that depend on the locale of the reader, such as short dates, are written as ISO 8601.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from fractions import Fraction
from functools import lru_cache
from typing import Any, NamedTuple

from drw.rag.documents.parsing.sheets.grid import Cell

BUILT_IN = {
    **{0: "General", 1: "0", 2: "0.00", 3: "#,##0", 4: "#,##0.00", 9: "0%", 10: "0.00%", 11: "0.00E+00"},
    **{12: "# ?/?", 13: "# ??/??", 14: "yyyy-mm-dd", 15: "d-mmm-yy", 16: "d-mmm", 17: "mmm-yy"},
    **{18: "h:mm AM/PM", 19: "h:mm:ss AM/PM", 20: "h:mm", 21: "h:mm:ss", 22: "yyyy-mm-dd h:mm"},
    **{37: "#,##0 ;(#,##0)", 38: "#,##0 ;(#,##0)", 39: "#,##0.00;(#,##0.00)", 40: "#,##0.00;(#,##0.00)"},
    **{41: "#,##0;(#,##0);-", 42: "$#,##0;$(#,##0);$-", 43: "#,##0.00;(#,##0.00);-", 44: "$#,##0.00;$(#,##0.00);$-"},
    **{45: "mm:ss", 46: "[h]:mm:ss", 47: "mm:ss.0", 48: "##0.0E+0", 49: "@"},
}
TOKEN = re.compile(
    r'"(?P<quoted>[^"]*)"?|\\(?P<escaped>.)|_(?P<space>.)|\*(?P<fill>.)|\[(?P<bracket>[^\]]*)\]'
    r"|(?P<general>General)|(?P<half>AM/PM|A/P)|(?P<date>[yY]+|[mM]+|[dD]+|[hH]+|[sS]+(?:\.0+)?)"
    r"|(?P<exponent>[eE][+-]0+)|(?P<digits>[0#?.,]+)|(?P<percent>%)|(?P<slash>/\s*[?#\d]+)|(?P<text>@)|(?P<other>.)",
    re.DOTALL | re.IGNORECASE,
)
CONDITION = re.compile(r"(<=|>=|<>|<|>|=)(-?(?:\d+\.?\d*|\.\d+))")
COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    **{"=": operator.eq, "<>": operator.ne, "<": operator.lt},
    **{">": operator.gt, "<=": operator.le, ">=": operator.ge},
}
ELAPSED = re.compile(r"h+|m+|s+", re.IGNORECASE)
MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]
WEEKDAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
GENERAL_DIGITS = 10
"""Maximum digits of a number in the format General."""
MAX_CODE_CHARACTERS = 255
SERIAL_NUMBER_END = 2_958_466
"""The serial number of the day after 9999-12-31."""


class _Token(NamedTuple):
    kind: str
    text: str


class _Section(NamedTuple):
    tokens: tuple[_Token, ...]
    condition: tuple[str, float] | None

    def has(self, kind: str) -> bool:
        return any(token.kind == kind for token in self.tokens)


def format_number(value: float, code: str, *, since_1904: bool = False) -> str:
    """Return a number as displayed with a format code; empty if the format displays nothing.

    Args:
        value: the number, or the serial number of a date.
        code: the number format code.
        since_1904: whether dates are days since 1904, as in old workbooks of Excel for Mac.
    """
    section, magnitude = _select_section(_sections(code[:MAX_CODE_CHARACTERS]), value)
    if section is None:
        return ""
    if not math.isfinite(value):
        return format_general(value)
    if section.has("date") or section.has("elapsed"):
        return _format_date(section, value, since_1904=since_1904) or format_general(value)
    try:
        return _format_numeric(section, value, magnitude)
    except ArithmeticError:  # the scaled number overflows or underflows
        return format_general(value)


def number_cell(value: float, code: str, *, since_1904: bool) -> Cell | None:
    """Return the cell of a number; None if its format displays nothing."""
    text = format_number(value, code, since_1904=since_1904)
    return Cell(text, value, is_date_format(code)) if text else None


def is_date_format(code: str) -> bool:
    """Return whether a format code displays a date or a time."""
    return any(t.kind in {"date", "elapsed"} for t in _sections(code[:MAX_CODE_CHARACTERS])[0].tokens)


def format_text(value: str, code: str) -> str:
    """Return a text as displayed with a format code."""
    sections = _sections(code[:MAX_CODE_CHARACTERS])
    if len(sections) < 4:
        return value
    return "".join(value if t.kind == "text" else _literal_text(t) for t in sections[3].tokens).strip()


def format_general(value: float) -> str:
    """Return a number in the format General."""
    if not math.isfinite(value):
        return "#NUM!"
    if value == int(value) and abs(value) < 1e21:
        return str(int(value))
    if not 1e-9 <= abs(value) < 1e21:
        return f"{value:.5E}".replace("E-0", "E-").replace("E+0", "E+")
    decimals = max(GENERAL_DIGITS - len(str(int(abs(value)))), 0) if abs(value) >= 1e-4 else 14
    text = f"{_round(value, decimals):f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


@lru_cache(maxsize=1024)
def _sections(code: str) -> list[_Section]:
    sections: list[list[_Token]] = [[]]
    conditions: list[tuple[str, float] | None] = [None]
    for match in TOKEN.finditer(code):
        kind = match.lastgroup or ""
        text = match[match.lastgroup or 0]
        if kind == "other" and text == ";":
            sections.append([])
            conditions.append(None)
        elif kind == "bracket":
            if condition := CONDITION.fullmatch(text):
                conditions[-1] = (condition[1], float(condition[2]))
            elif ELAPSED.fullmatch(text):
                sections[-1].append(_Token("elapsed", text.lower()))
            elif text.startswith("$"):
                sections[-1].append(_Token("quoted", text[1:].partition("-")[0]))
        else:
            sections[-1].append(_Token(kind, text))
    return [_Section(tuple(t), c) for t, c in zip(sections[:4], conditions, strict=False)]


def _select_section(sections: list[_Section], value: float) -> tuple[_Section | None, float]:
    """Return the section that applies to a number, and the number without the sign that the section implies."""
    numeric_sections = sections[:3]
    if any(s.condition for s in numeric_sections):
        for section in numeric_sections:
            if section.condition is None:
                return section, value
            comparison, bound = section.condition
            if COMPARISONS[comparison](value, bound):
                return section, value
        return None, value
    if value < 0 and len(numeric_sections) > 1:
        return numeric_sections[1], abs(value)
    if value == 0 and len(numeric_sections) > 2:
        return numeric_sections[2], 0.0
    return numeric_sections[0], value


def _format_numeric(section: _Section, value: float, magnitude: float) -> str:
    if section.has("general"):
        return "".join(
            format_general(magnitude) if t.kind == "general" else _literal_text(t) for t in section.tokens
        ).strip()
    if not section.has("digits"):
        literal = "".join(
            format_general(value) if t.kind == "text" else _literal_text(t) for t in section.tokens
        ).strip()
        return f"-{literal}" if literal and magnitude < 0 else literal
    if section.has("slash"):
        return _format_fraction(section, magnitude)
    amount = abs(magnitude) * 100 ** sum(t.kind == "percent" for t in section.tokens)
    if not math.isfinite(amount):
        raise OverflowError
    body = _format_scientific(section, amount) if section.has("exponent") else _format_decimal(section, amount)
    # A number that rounds to zero is shown without its sign.
    return f"-{body}" if magnitude < 0 and re.search("[1-9]", body) else body


def _format_decimal(section: _Section, amount: float) -> str:
    pattern = "".join(t.text for t in section.tokens if t.kind == "digits")
    thousands = len(pattern) - len(pattern.rstrip(","))
    integer_pattern, _, decimal_pattern = pattern.rstrip(",").partition(".")
    decimal_pattern = decimal_pattern.replace(",", "").replace(".", "")
    rounded = _round(amount / 1000**thousands, len(decimal_pattern))
    digits, _, decimals = f"{rounded:f}".partition(".")
    min_digits = integer_pattern.count("0")
    digits = digits.lstrip("0").rjust(min_digits, "0") if min_digits else digits.lstrip("0")
    while decimals and decimal_pattern[len(decimals) - 1] != "0" and decimals[-1] == "0":
        decimals = decimals[:-1]
    fraction = f".{decimals}" if decimals else ""
    placeholders = [t for t in section.tokens if t.kind == "digits"]
    if len(placeholders) > 1 and "." not in pattern and "," not in pattern:
        return _fill_placeholders(section, digits)
    if "," in integer_pattern:
        digits = f"{int(digits or 0):,}".rjust(min_digits, "0") if digits else ""
    return _with_literals(section, (digits + fraction) or ("" if min_digits == 0 and not fraction else "0"))


def _fill_placeholders(section: _Section, digits: str) -> str:
    """Fill digits from the right into placeholders that are separated by text, as in 000-0000."""
    parts: list[str] = []
    tokens = list(section.tokens)
    first_placeholder = next(n for n, t in enumerate(tokens) if t.kind == "digits")
    for number in range(len(tokens) - 1, -1, -1):
        token = tokens[number]
        if token.kind != "digits":
            parts.append(_literal_text(token))
            continue
        size = len(digits) if number == first_placeholder else min(len(token.text), len(digits))
        parts.append(digits[len(digits) - size :])
        digits = digits[: len(digits) - size]
    return "".join(reversed(parts)).strip()


def _format_scientific(section: _Section, amount: float) -> str:
    pattern = next(t.text for t in section.tokens if t.kind == "digits")
    exponent_pattern = next(t.text for t in section.tokens if t.kind == "exponent")
    integer_pattern, _, decimal_pattern = pattern.partition(".")
    step = max(len(integer_pattern.replace(",", "")), 1)
    power = math.floor(math.log10(amount) / step) * step if amount and step > 1 else 0
    if step == 1 and amount:
        power = math.floor(math.log10(amount))
    mantissa = _round(amount / 10.0**power, len(decimal_pattern))
    if mantissa >= 10**step:
        mantissa, power = mantissa / 10**step, power + step
    exponent_sign = "-" if power < 0 else ("+" if "+" in exponent_pattern else "")
    return _with_literals(section, f"{mantissa:f}E{exponent_sign}{abs(power):0{exponent_pattern.count('0')}d}")


def _format_fraction(section: _Section, value: float) -> str:
    denominator_pattern = next(t.text for t in section.tokens if t.kind == "slash")[1:].strip()
    integer = int(abs(value))
    remainder = abs(value) - integer
    if denominator_pattern.isdigit():
        numerator = round(remainder * int(denominator_pattern))
        denominator = int(denominator_pattern)
    else:
        approximation = Fraction(remainder).limit_denominator(10 ** min(len(denominator_pattern), 5) - 1)
        numerator = approximation.numerator
        denominator = approximation.denominator
    if numerator == denominator:
        integer, numerator = integer + 1, 0
    parts = [str(integer)] if integer or not numerator else []
    parts += [f"{numerator}/{denominator}"] if numerator else []
    return ("-" if value < 0 and (integer or numerator) else "") + " ".join(parts)


def _with_literals(section: _Section, number: str) -> str:
    """Return a formatted number with the literal text of its section."""
    parts: list[str] = []
    for token in section.tokens:
        if token.kind == "digits":
            parts.append(number)
            number = ""
        else:
            parts.append(_literal_text(token))
    return "".join(parts).strip()


def _literal_text(token: _Token) -> str:
    if token.kind in {"quoted", "escaped", "percent"} or (token.kind == "other" and token.text != ";"):
        return "%" if token.kind == "percent" else token.text
    if token.kind in {"date", "half"}:  # a letter of a date format in a section without a date
        return token.text
    return " " if token.kind == "space" else ""


def _format_date(section: _Section, value: float, *, since_1904: bool) -> str:
    """Return a date or time; empty if the serial number is out of range."""
    if not 0 <= value < SERIAL_NUMBER_END:
        return ""
    tokens = section.tokens
    fraction = next((len(t.text.partition(".")[2]) for t in tokens if t.kind == "date" and "." in t.text), 0)
    seconds = Decimal(repr(value)) * 86400
    seconds = seconds.quantize(Decimal(1).scaleb(-fraction), ROUND_HALF_UP)
    days, second_of_day = divmod(seconds, 86400)
    # Excel's calendar has a 29 February 1900, which did not exist, as day 60: earlier days have another epoch.
    epoch = datetime(1904, 1, 1) if since_1904 else datetime(1899, 12, 31 if days < 60 else 30)
    try:
        moment = epoch + timedelta(days=int(days), seconds=int(second_of_day))
    except OverflowError:
        return ""
    is_half = section.has("half")
    parts: list[str] = []
    for number, token in enumerate(tokens):
        if token.kind == "elapsed":
            unit = {"h": 3600, "m": 60, "s": 1}[token.text[0]]
            parts.append(str(int(seconds // unit)).rjust(len(token.text), "0"))
        elif token.kind == "half":
            parts.append("AM" if moment.hour < 12 else "PM")
        elif token.kind == "date":
            parts.append(
                _format_date_part(token.text.lower(), moment, second_of_day % 1, is_half, _is_minute(tokens, number))
            )
        elif token.kind == "digits":
            parts.append(token.text)
        elif token.kind == "slash":
            parts.append("/")
        else:
            parts.append(_literal_text(token))
    return "".join(parts).strip()


def _is_minute(tokens: tuple[_Token, ...], number: int) -> bool:
    """Return whether a token `m` stands for minutes: it follows hours or precedes seconds."""
    time_tokens = [(n, t.text.lower()[:1]) for n, t in enumerate(tokens) if t.kind in {"date", "elapsed"}]
    index = next(n for n, (token_number, _) in enumerate(time_tokens) if token_number == number)
    return (index > 0 and time_tokens[index - 1][1] == "h") or (
        index + 1 < len(time_tokens) and time_tokens[index + 1][1] == "s"
    )


def _format_date_part(text: str, moment: datetime, fraction: Decimal, is_half: bool, is_minute: bool) -> str:
    letter = text[0]
    size = len(text.partition(".")[0])
    if letter == "y":
        return f"{moment.year % 100:02d}" if size <= 2 else f"{moment.year:04d}"
    if letter == "m" and not is_minute:
        name = MONTHS[moment.month - 1]
        return {3: name[:3], 4: name, 5: name[0]}.get(size, f"{moment.month:0{min(size, 2)}d}")
    if letter == "d":
        name = WEEKDAYS[moment.weekday()]
        return {3: name[:3], 4: name}.get(size, f"{moment.day:0{min(size, 2)}d}")
    if letter == "s":
        decimals = len(text.partition(".")[2])
        return f"{moment.second:0{min(size, 2)}d}" + (f"{fraction:.{decimals}f}"[1:] if decimals else "")
    hour = (moment.hour % 12 or 12) if is_half else moment.hour
    return f"{moment.minute if letter == 'm' else hour:0{min(size, 2)}d}"


def _round(value: float, decimals: int) -> Decimal:
    try:
        return Decimal(repr(value)).quantize(Decimal(1).scaleb(-decimals), ROUND_HALF_UP)
    except InvalidOperation:  # more digits than the precision of the decimal context
        return Decimal(repr(value))
