"""Renders cell values by their Excel number format code: dates, percentages, currencies, fractions (ECMA-376, 18.8.31).

Formats that follow the reader's own regional settings (the built-in short dates) are written as ISO 8601.
"""

from __future__ import annotations

import math
import re
from datetime import datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

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
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
DIGITS = 10
"""Significant digits of a number in the format General."""
MAX_CODE = 255
LAST_DAY = 2_958_466
"""The serial number of the day after 9999-12-31."""


class _Token(NamedTuple):
    kind: str
    text: str


class _Section(NamedTuple):
    tokens: tuple[_Token, ...]
    condition: tuple[str, float] | None

    def has(self, kind: str) -> bool:
        return any(token.kind == kind for token in self.tokens)


def shown(value: float, code: str, *, since_1904: bool = False) -> str:
    """Return a number as a cell of this format shows it.

    `since_1904`: the workbook counts days from 1904, as old ones of Macintosh do.
    """
    section, magnitude = _section(_sections(code[:MAX_CODE]), value)
    if section is None:
        return ""
    if not math.isfinite(value):
        return general(value)
    if section.has("date") or section.has("elapsed"):
        return _date(section, value, since_1904=since_1904) or general(value)
    try:
        return _number(section, value, magnitude)
    except ArithmeticError:  # a format that makes more of the number, or less, than a number can be
        return general(value)


def is_date(code: str) -> bool:
    """Say whether a format shows a date or a time."""
    return any(t.kind in {"date", "elapsed"} for t in _sections(code[:MAX_CODE])[0].tokens)


def shown_text(value: str, code: str) -> str:
    """Return a text as a cell of this format shows it."""
    sections = _sections(code[:MAX_CODE])
    if len(sections) < 4:
        return value
    return "".join(value if t.kind == "text" else _literal(t) for t in sections[3].tokens).strip()


def general(value: float) -> str:
    """Return a number as a cell without a format shows it."""
    if not math.isfinite(value):
        return "#NUM!"
    if value == int(value) and abs(value) < 1e21:
        return str(int(value))
    if not 1e-9 <= abs(value) < 1e21:
        return f"{value:.5E}".replace("E-0", "E-").replace("E+0", "E+")
    places = max(DIGITS - len(str(int(abs(value)))), 0) if abs(value) >= 1e-4 else 14
    return _trimmed(f"{_rounded(value, places):f}")


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


def _section(sections: list[_Section], value: float) -> tuple[_Section | None, float]:
    """Return the format section for a number, and the number to write: the section may write the sign itself."""
    numeric = sections[:3]
    if any(s.condition for s in numeric):
        for section in numeric:
            if section.condition is None or _holds(section.condition, value):
                return section, value
        return None, value
    if value < 0 and len(numeric) > 1:
        return numeric[1], abs(value)
    if value == 0 and len(numeric) > 2:
        return numeric[2], 0.0
    return numeric[0], value


def _holds(condition: tuple[str, float], value: float) -> bool:
    operator, bound = condition
    return {
        **{"<": value < bound, ">": value > bound, "=": value == bound},
        **{"<=": value <= bound, ">=": value >= bound, "<>": value != bound},
    }[operator]


def _number(section: _Section, value: float, magnitude: float) -> str:
    if section.has("general"):
        return "".join(general(magnitude) if t.kind == "general" else _literal(t) for t in section.tokens).strip()
    if not section.has("digits"):
        literal = "".join(general(value) if t.kind == "text" else _literal(t) for t in section.tokens).strip()
        return f"-{literal}" if literal and magnitude < 0 else literal
    if section.has("slash"):
        return _fraction(section, magnitude)
    amount = abs(magnitude) * 100 ** sum(t.kind == "percent" for t in section.tokens)
    if not math.isfinite(amount):
        raise OverflowError
    body = _scientific(section, amount) if section.has("exponent") else _decimal(section, amount)
    # A number that rounds to zero is shown without its sign.
    return f"-{body}" if magnitude < 0 and re.search("[1-9]", body) else body


def _decimal(section: _Section, amount: float) -> str:
    pattern = "".join(t.text for t in section.tokens if t.kind == "digits")
    scaled = len(pattern) - len(pattern.rstrip(","))
    whole, _, part = pattern.rstrip(",").partition(".")
    part = part.replace(",", "").replace(".", "")
    rounded = _rounded(amount / 1000**scaled, len(part))
    digits, _, decimals = f"{rounded:f}".partition(".")
    least = whole.count("0")
    digits = digits.lstrip("0").rjust(least, "0") if least else digits.lstrip("0")
    while decimals and part[len(decimals) - 1] != "0" and decimals[-1] == "0":
        decimals = decimals[:-1]
    tail = f".{decimals}" if decimals else ""
    runs = [t for t in section.tokens if t.kind == "digits"]
    if len(runs) > 1 and "." not in pattern and "," not in pattern:
        return _spread(section, digits)
    if "," in whole:
        digits = f"{int(digits or 0):,}".rjust(least, "0") if digits else ""
    return _around(section, (digits + tail) or ("" if least == 0 and not tail else "0"))


def _spread(section: _Section, digits: str) -> str:
    """Put digits into placeholders that text parts, as in 000-0000, from the right."""
    out: list[str] = []
    tokens = list(section.tokens)
    first = next(n for n, t in enumerate(tokens) if t.kind == "digits")
    for number in range(len(tokens) - 1, -1, -1):
        token = tokens[number]
        if token.kind != "digits":
            out.append(_literal(token))
            continue
        size = len(digits) if number == first else min(len(token.text), len(digits))
        out.append(digits[len(digits) - size :])
        digits = digits[: len(digits) - size]
    return "".join(reversed(out)).strip()


def _scientific(section: _Section, amount: float) -> str:
    pattern = next(t.text for t in section.tokens if t.kind == "digits")
    sign = next(t.text for t in section.tokens if t.kind == "exponent")
    whole, _, part = pattern.partition(".")
    step = max(len(whole.replace(",", "")), 1)
    power = math.floor(math.log10(amount) / step) * step if amount and step > 1 else 0
    if step == 1 and amount:
        power = math.floor(math.log10(amount))
    mantissa = _rounded(amount / 10.0**power, len(part))
    if mantissa >= 10**step:
        mantissa, power = mantissa / 10**step, power + step
    mark = "-" if power < 0 else ("+" if "+" in sign else "")
    return _around(section, f"{mantissa:f}E{mark}{abs(power):0{sign.count('0')}d}")


def _fraction(section: _Section, value: float) -> str:
    bottom = next(t.text for t in section.tokens if t.kind == "slash")[1:].strip()
    whole = int(abs(value))
    rest = abs(value) - whole
    if bottom.isdigit():
        numerator = round(rest * int(bottom))
        denominator = int(bottom)
    else:
        near = Fraction(rest).limit_denominator(10 ** min(len(bottom), 5) - 1)
        numerator = near.numerator
        denominator = near.denominator
    if numerator == denominator:
        whole, numerator = whole + 1, 0
    parts = [str(whole)] if whole or not numerator else []
    parts += [f"{numerator}/{denominator}"] if numerator else []
    return ("-" if value < 0 and (whole or numerator) else "") + " ".join(parts)


def _around(section: _Section, number: str) -> str:
    """Return the number with the literal text around it."""
    out: list[str] = []
    for token in section.tokens:
        if token.kind == "digits":
            out.append(number)
            number = ""
        else:
            out.append(_literal(token))
    return "".join(out).strip()


def _literal(token: _Token) -> str:
    if token.kind in {"quoted", "escaped", "percent"} or (token.kind == "other" and token.text != ";"):
        return "%" if token.kind == "percent" else token.text
    if token.kind in {"date", "half"}:  # a letter that no date is made of here
        return token.text
    return " " if token.kind == "space" else ""


def _date(section: _Section, value: float, *, since_1904: bool) -> str:
    """Return a date; empty if the number is not one."""
    if not 0 <= value < LAST_DAY:
        return ""
    tokens = section.tokens
    fraction = next((len(t.text.partition(".")[2]) for t in tokens if t.kind == "date" and "." in t.text), 0)
    seconds = Decimal(repr(value)) * 86400
    seconds = seconds.quantize(Decimal(1).scaleb(-fraction), ROUND_HALF_UP)
    days, left = divmod(seconds, 86400)
    # Excel's calendar has a 29 February 1900 that never was: day 60, and all before it are one late.
    epoch = datetime(1904, 1, 1) if since_1904 else datetime(1899, 12, 31 if days < 60 else 30)
    try:
        moment = epoch + timedelta(days=int(days), seconds=int(left))
    except OverflowError:
        return ""
    is_half = section.has("half")
    out: list[str] = []
    for number, token in enumerate(tokens):
        if token.kind == "elapsed":
            unit = {"h": 3600, "m": 60, "s": 1}[token.text[0]]
            out.append(str(int(seconds // unit)).rjust(len(token.text), "0"))
        elif token.kind == "half":
            out.append("AM" if moment.hour < 12 else "PM")
        elif token.kind == "date":
            out.append(_date_part(token.text.lower(), moment, left % 1, is_half, _is_minute(tokens, number)))
        elif token.kind == "digits":
            out.append(token.text)
        elif token.kind == "slash":
            out.append("/")
        else:
            out.append(_literal(token))
    return "".join(out).strip()


def _is_minute(tokens: tuple[_Token, ...], number: int) -> bool:
    """Say whether an m here is of minutes: after hours, or before seconds."""
    timed = [(n, t.text.lower()[:1]) for n, t in enumerate(tokens) if t.kind in {"date", "elapsed"}]
    at = next(n for n, (index, _) in enumerate(timed) if index == number)
    return (at > 0 and timed[at - 1][1] == "h") or (at + 1 < len(timed) and timed[at + 1][1] == "s")


def _date_part(text: str, moment: datetime, fraction: Decimal, is_half: bool, is_minute: bool) -> str:
    letter = text[0]
    size = len(text.partition(".")[0])
    if letter == "y":
        return f"{moment.year % 100:02d}" if size <= 2 else f"{moment.year:04d}"
    if letter == "m" and not is_minute:
        name = MONTHS[moment.month - 1]
        return {3: name[:3], 4: name, 5: name[0]}.get(size, f"{moment.month:0{min(size, 2)}d}")
    if letter == "d":
        name = DAYS[moment.weekday()]
        return {3: name[:3], 4: name}.get(size, f"{moment.day:0{min(size, 2)}d}")
    if letter == "s":
        places = len(text.partition(".")[2])
        return f"{moment.second:0{min(size, 2)}d}" + (f"{fraction:.{places}f}"[1:] if places else "")
    hour = (moment.hour % 12 or 12) if is_half else moment.hour
    return f"{moment.minute if letter == 'm' else hour:0{min(size, 2)}d}"


def _rounded(value: float, places: int) -> Decimal:
    try:
        return Decimal(repr(value)).quantize(Decimal(1).scaleb(-places), ROUND_HALF_UP)
    except InvalidOperation:  # more digits than a decimal has here
        return Decimal(repr(value))


def _trimmed(number: str) -> str:
    return number.rstrip("0").rstrip(".") if "." in number else number
