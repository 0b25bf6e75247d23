"""Formulas without a stored value: computed if they are arithmetic, otherwise displayed as formulas.

Excel stores the value of each formula; programs that write workbooks often do not.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from drw.rag.documents.parsing.sheets import number_formats
from drw.rag.documents.parsing.sheets.grid import Cell, Range, Sheet, position

TOKEN = re.compile(
    r"""\s*(?:(?P<number>\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+)|"(?P<text>(?:[^"]|"")*)"|(?P<function>[A-Z][A-Z.]*)\(
    |(?P<reference>(?:(?:'(?:[^']|'')+'|[^\W\d][\w.]*)!)?\$?[A-Z]{1,3}\$?\d{1,7}(?::\$?[A-Z]{1,3}\$?\d{1,7})?)(?![\w(!])
    |(?P<logical>TRUE|FALSE)(?!\w)|(?P<operator><=|>=|<>|[-+*/^&=<>%(),]))""",
    re.VERBOSE,
)
MAX_CHARACTERS = 1000
MAX_DEPTH = 60
"""How deep formulas may refer to formulas that are not computed yet, or be nested."""
MAX_READ = 5_000_000
"""Cells that all formulas of a workbook may read together."""

COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    **{"=": operator.eq, "<>": operator.ne, "<": operator.lt},
    **{">": operator.gt, "<=": operator.le, ">=": operator.ge},
}

Value = float | str | bool | None


class Unknown(Exception):
    """The formula has something that is not computed here."""


class CellError(Exception):
    """The formula's value is an error, as `#DIV/0!` is."""


@dataclass(frozen=True, slots=True)
class Formula:
    """A formula of a cell, the cell's number format, and whether the workbook counts days from 1904."""

    sheet: Sheet
    row: int
    column: int
    text: str
    code: str
    since_1904: bool


def compute(sheets: Sequence[Sheet], formulas: Sequence[Formula]) -> Iterator[str]:
    """Set the values of formula cells; yield warnings."""
    book = _Book(sheets, formulas)
    written = 0
    for formula in formulas:
        try:
            cell = book.cell(formula)
        except (Unknown, RecursionError, ArithmeticError, ValueError):
            cell, written = Cell(f"={formula.text}"), written + 1
        if cell:
            formula.sheet.rows.setdefault(formula.row, {})[formula.column] = cell
    if done := len(formulas) - written:
        yield f"{done} formulas had no stored value and were computed"
    if written:
        yield f"{written} formulas have no stored value and are shown as formulas"


class _Book:
    """Values of cells, stored and computed."""

    def __init__(self, sheets: Sequence[Sheet], formulas: Iterable[Formula]) -> None:
        self._sheets = {sheet.name.lower(): sheet for sheet in sheets}
        self._waiting = {(f.sheet.name.lower(), f.row, f.column): f for f in formulas}
        self._known: dict[tuple[str, int, int], Value | CellError | Unknown] = {}
        self._depth = 0
        self._read = 0

    def cell(self, formula: Formula) -> Cell | None:
        """Return the displayed cell of a formula."""
        try:
            value = self.value(formula.sheet.name.lower(), formula.row, formula.column)
        except CellError as error:
            return Cell(str(error))
        if isinstance(value, bool):
            return Cell(str(value).upper())
        if isinstance(value, str) or value is None:
            return Cell(value) if value else None
        text = number_formats.shown(value, formula.code, since_1904=formula.since_1904)
        return Cell(text, value, number_formats.is_date(formula.code)) if text else None

    def value(self, sheet: str, row: int, column: int) -> Value:
        """Return the value of a cell: computed from its formula, or stored."""
        self._read += 1
        if self._read > MAX_READ:
            raise Unknown
        key = (sheet, row, column)
        if key in self._waiting and key not in self._known:
            self._known[key] = Unknown()  # where it refers to itself
            self._known[key] = self._computed(self._waiting[key])
        if key in self._known:
            cached = self._known[key]
            if isinstance(cached, Unknown | CellError):
                raise cached
            return cached
        if sheet not in self._sheets:
            raise Unknown
        cell = self._sheets[sheet].rows.get(row, {}).get(column)
        if cell is None:
            return None
        if cell.value is None and cell.text.startswith("#") and cell.text.isupper():
            raise CellError(cell.text)
        if cell.text in {"TRUE", "FALSE"}:
            return cell.text == "TRUE"
        return cell.value if cell.value is not None else cell.text

    def _computed(self, formula: Formula) -> Value | CellError | Unknown:
        if self._depth >= MAX_DEPTH or len(formula.text) > MAX_CHARACTERS:
            return Unknown()
        self._depth += 1
        try:
            return _Parser(self, formula).result()
        except (CellError, Unknown) as error:
            return error
        finally:
            self._depth -= 1

    def range(self, sheet: str, cells: Range) -> Iterator[Value]:
        """Yield the values of a range's cells that have any."""
        if sheet not in self._sheets:
            raise Unknown
        if (cells.bottom - cells.top + 1) * (cells.right - cells.left + 1) > MAX_READ:
            raise Unknown
        for row in range(cells.top, cells.bottom + 1):
            for column in range(cells.left, cells.right + 1):
                if (cell_value := self.value(sheet, row, column)) is not None:
                    yield cell_value


class _Parser:
    """Computes one formula while it reads it, by Excel's precedence of operators."""

    def __init__(self, book: _Book, formula: Formula) -> None:
        self._book = book
        self._sheet = formula.sheet.name.lower()
        self._tokens = _tokens(formula.text)
        self._at = 0
        self._depth = 0

    def result(self) -> Value:
        """Return the value of the formula."""
        result = self._comparison()
        if self._at < len(self._tokens):
            raise Unknown
        return result

    def _peek(self) -> tuple[str, str]:
        return self._tokens[self._at] if self._at < len(self._tokens) else ("", "")

    def _take(self, *operators: str) -> str:
        kind, text = self._peek()
        if kind == "operator" and text in operators:
            self._at += 1
            return text
        return ""

    def _comparison(self) -> Value:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise Unknown
        left = self._joined()
        while sign := self._take("=", "<>", "<", ">", "<=", ">="):
            left = _compared(sign, left, self._joined())
        self._depth -= 1
        return left

    def _joined(self) -> Value:
        left = self._sum()
        while self._take("&"):
            left = _as_text(left) + _as_text(self._sum())
        return left

    def _sum(self) -> Value:
        left = self._product()
        while sign := self._take("+", "-"):
            right = _number(self._product())
            left = _number(left) + (right if sign == "+" else -right)
        return left

    def _product(self) -> Value:
        left = self._power()
        while sign := self._take("*", "/"):
            right = _number(self._power())
            if sign == "/" and right == 0:
                raise CellError("#DIV/0!")
            left = _number(left) * right if sign == "*" else _number(left) / right
        return left

    def _power(self) -> Value:
        left = self._signed()
        while self._take("^"):
            try:
                left = float(_number(left) ** _number(self._signed()))
            except (TypeError, ArithmeticError):
                raise CellError("#NUM!") from None
        return left

    def _signed(self) -> Value:
        negative = False
        is_signed = False
        while sign := self._take("-", "+"):
            negative, is_signed = negative != (sign == "-"), True
        operand = self._single()
        while self._take("%"):
            operand = _number(operand) / 100
        return (-_number(operand) if negative else _number(operand)) if is_signed else operand

    def _single(self) -> Value:
        kind, text = self._peek()
        self._at += 1
        if kind == "number":
            return float(text)
        if kind == "text":
            return text.replace('""', '"')
        if kind == "logical":
            return text == "TRUE"
        if kind == "function":
            return self._call(text)
        if kind == "reference" and ":" not in text:
            return next(iter(self._values(text)), None)
        if (kind, text) == ("operator", "("):
            result = self._comparison()
            if not self._take(")"):
                raise Unknown
            return result
        raise Unknown

    def _values(self, reference: str) -> Iterator[Value]:
        sheet, _, cells = reference.replace("$", "").rpartition("!")
        name = sheet.strip("'").replace("''", "'").lower() or self._sheet
        first, _, last = cells.partition(":")
        begin = position(first)
        end = position(last or first)
        if begin is None or end is None:
            raise Unknown
        yield from self._book.range(name, Range(*map(min, begin, end), *map(max, begin, end)))

    def _call(self, name: str) -> Value:
        if name in CHOICES:
            return self._choice(name)
        if name not in FUNCTIONS:
            raise Unknown
        arguments: list[list[Value]] = []
        while not self._take(")"):
            kind, text = self._peek()
            following = self._tokens[self._at + 1 : self._at + 2]
            if kind == "reference" and following and following[0] in {("operator", ","), ("operator", ")")}:
                self._at += 1
                arguments.append(list(self._values(text)))
            else:
                arguments.append([self._comparison()])
            if not self._take(",") and self._peek() != ("operator", ")"):
                raise Unknown
        return FUNCTIONS[name](arguments)

    def _choice(self, name: str) -> Value:
        """Compute IF and IFERROR; an error in the branch that is not taken is ignored."""
        arguments: list[Value | CellError] = []
        while not self._take(")"):
            depth = self._depth
            begin = self._at
            try:
                arguments.append(self._comparison())
            except CellError as error:
                arguments.append(error)
                self._depth = depth
                self._at = self._end(begin)
            if not self._take(",") and self._peek() != ("operator", ")"):
                raise Unknown
        if name == "IFERROR" and len(arguments) == 2:
            chosen = arguments[1] if isinstance(arguments[0], CellError) else arguments[0]
        elif name == "IF" and 2 <= len(arguments) <= 3:
            if isinstance(arguments[0], CellError):
                raise arguments[0]
            chosen = arguments[1] if _number(arguments[0]) else (arguments[2] if len(arguments) == 3 else False)
        else:
            raise Unknown
        if isinstance(chosen, CellError):
            raise chosen
        return chosen

    def _end(self, begin: int) -> int:
        """Return the end of the argument that begins here."""
        depth = 0
        for at in range(begin, len(self._tokens)):
            kind, text = self._tokens[at]
            if depth == 0 and (kind, text) in {("operator", ","), ("operator", ")")}:
                return at
            depth += (kind == "function" or text == "(") - ((kind, text) == ("operator", ")"))
        raise Unknown


def _tokens(text: str) -> list[tuple[str, str]]:
    tokens: list[tuple[str, str]] = []
    at = 0
    text = text.strip().removeprefix("=").removeprefix("_xlfn.")
    while at < len(text):
        match = TOKEN.match(text, at)
        if match is None:
            raise Unknown
        tokens.append((match.lastgroup or "", match[match.lastgroup or 0]))
        at = match.end()
    return tokens


def _number(value: Value) -> float:
    if value is None:
        return 0.0
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            raise CellError("#VALUE!") from None
    return float(value)


def _as_text(value: Value) -> str:
    if isinstance(value, bool):
        return str(value).upper()
    return value if isinstance(value, str) else "" if value is None else number_formats.general(value)


def _compared(sign: str, left: Value, right: Value) -> bool:
    compare: Callable[[Any, Any], Any] = COMPARISONS[sign]
    if isinstance(left, str) or isinstance(right, str):
        return bool(compare(_as_text(left).lower(), _as_text(right).lower()))
    return bool(compare(_number(left), _number(right)))


def _numbers(arguments: list[list[Value]]) -> list[float]:
    """Return the numbers of ranges; texts in them do not count."""
    flat = [value for values in arguments for value in values]
    return [float(v) for v in flat if isinstance(v, int | float) and not isinstance(v, bool)]


def _average(arguments: list[list[Value]]) -> float:
    numbers = _numbers(arguments)
    if not numbers:
        raise CellError("#DIV/0!")
    return math.fsum(numbers) / len(numbers)


def _rounded(arguments: list[list[Value]]) -> float:
    if len(arguments) != 2 or not all(len(values) == 1 for values in arguments):
        raise Unknown
    number = _number(arguments[0][0])
    places = int(_number(arguments[1][0]))
    factor = 10.0**places
    return math.copysign(math.floor(abs(number) * factor + 0.5) / factor, number)


def _only(arguments: list[list[Value]]) -> float:
    if len(arguments) != 1 or len(arguments[0]) > 1:
        raise Unknown
    return _number(arguments[0][0] if arguments[0] else None)


CHOICES = frozenset({"IF", "IFERROR"})
FUNCTIONS: dict[str, Callable[[list[list[Value]]], Value]] = {
    "SUM": lambda a: math.fsum(_numbers(a)),
    "AVERAGE": _average,
    "MIN": lambda a: min(_numbers(a), default=0.0),
    "MAX": lambda a: max(_numbers(a), default=0.0),
    "COUNT": lambda a: float(len(_numbers(a))),
    "COUNTA": lambda a: float(sum(len(values) for values in a)),
    "PRODUCT": lambda a: math.prod(_numbers(a)),
    "ROUND": _rounded,
    "ABS": lambda a: abs(_only(a)),
    "INT": lambda a: float(math.floor(_only(a))),
}
