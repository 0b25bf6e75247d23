"""Evaluation of formulas without a stored value. Unsupported formulas are displayed as text.

Excel stores the value of each formula; other programs that write workbooks often do not.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from drw.rag.documents.parsing.sheets import number_formats
from drw.rag.documents.parsing.sheets.grid import Cell, Range, Sheet, parse_cell

TOKEN = re.compile(
    r"""\s*(?:(?P<number>\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+)|"(?P<text>(?:[^"]|"")*)"|(?P<function>[A-Z][A-Z.]*)\(
    |(?P<reference>(?:(?:'(?:[^']|'')+'|[^\W\d][\w.]*)!)?\$?[A-Z]{1,3}\$?\d{1,7}(?::\$?[A-Z]{1,3}\$?\d{1,7})?)(?![\w(!])
    |(?P<logical>TRUE|FALSE)(?!\w)|(?P<operator><=|>=|<>|[-+*/^&=<>%(),]))""",
    re.VERBOSE,
)
MAX_CHARACTERS = 1000
MAX_DEPTH = 60
"""Maximum depth of nested expressions, and of references to formulas that are not computed yet."""
MAX_CELL_READS = 5_000_000
"""Maximum number of cells that all formulas of a workbook read together."""

Value = float | str | bool | None


class Unsupported(Exception):
    """The formula uses a feature that is not supported, or exceeds a limit."""


class CellError(Exception):
    """The value of the formula is an error, such as `#DIV/0!`."""


@dataclass(frozen=True, slots=True)
class Formula:
    """The formula of a cell, its number format code, and whether dates are days since 1904."""

    sheet: Sheet
    row: int
    column: int
    text: str
    code: str
    since_1904: bool


def compute(sheets: Sequence[Sheet], formulas: Sequence[Formula]) -> Iterator[str]:
    """Set the cells of formulas in their sheets; yield warnings."""
    values = _CellValues(sheets, formulas)
    unsupported = 0
    for formula in formulas:
        try:
            cell = values.cell(formula)
        except (Unsupported, RecursionError, ArithmeticError, ValueError):
            cell, unsupported = Cell(f"={formula.text}"), unsupported + 1
        if cell:
            formula.sheet.rows.setdefault(formula.row, {})[formula.column] = cell
    if computed := len(formulas) - unsupported:
        yield f"{computed} formulas had no stored value and were computed"
    if unsupported:
        yield f"{unsupported} formulas have no stored value and are shown as formulas"


class _CellValues:
    """The values of cells, stored or computed; each formula is computed once."""

    def __init__(self, sheets: Sequence[Sheet], formulas: Iterable[Formula]) -> None:
        self._sheets = {sheet.name.lower(): sheet for sheet in sheets}
        self._formulas = {(f.sheet.name.lower(), f.row, f.column): f for f in formulas}
        self._results: dict[tuple[str, int, int], Value | CellError | Unsupported] = {}
        self._depth = 0
        self._reads = 0

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
        return number_formats.number_cell(value, formula.code, since_1904=formula.since_1904)

    def value(self, sheet: str, row: int, column: int) -> Value:
        """Return the value of a cell: computed from its formula, or stored."""
        self._reads += 1
        if self._reads > MAX_CELL_READS:
            raise Unsupported
        key = (sheet, row, column)
        if key in self._formulas and key not in self._results:
            self._results[key] = Unsupported()  # the result of a circular reference
            self._results[key] = self._compute(self._formulas[key])
        if key in self._results:
            cached = self._results[key]
            if isinstance(cached, Unsupported | CellError):
                raise cached
            return cached
        if sheet not in self._sheets:
            raise Unsupported
        cell = self._sheets[sheet].rows.get(row, {}).get(column)
        if cell is None:
            return None
        if cell.value is None and cell.text.startswith("#") and cell.text.isupper():
            raise CellError(cell.text)
        if cell.text in {"TRUE", "FALSE"}:
            return cell.text == "TRUE"
        return cell.value if cell.value is not None else cell.text

    def _compute(self, formula: Formula) -> Value | CellError | Unsupported:
        if self._depth >= MAX_DEPTH or len(formula.text) > MAX_CHARACTERS:
            return Unsupported()
        self._depth += 1
        try:
            return _Evaluator(self, formula).result()
        except (CellError, Unsupported) as error:
            return error
        finally:
            self._depth -= 1

    def range(self, sheet: str, cells: Range) -> Iterator[Value]:
        """Yield the values of the cells of a range that are not empty."""
        if sheet not in self._sheets:
            raise Unsupported
        if (cells.bottom - cells.top + 1) * (cells.right - cells.left + 1) > MAX_CELL_READS:
            raise Unsupported
        for row in range(cells.top, cells.bottom + 1):
            for column in range(cells.left, cells.right + 1):
                if (cell_value := self.value(sheet, row, column)) is not None:
                    yield cell_value


class _Evaluator:
    """Recursive descent parser that evaluates one formula, with Excel's operator precedence."""

    def __init__(self, values: _CellValues, formula: Formula) -> None:
        self._values = values
        self._sheet = formula.sheet.name.lower()
        self._tokens = _tokenize(formula.text)
        self._position = 0
        self._depth = 0

    def result(self) -> Value:
        """Return the value of the formula."""
        result = self._comparison()
        if self._position < len(self._tokens):
            raise Unsupported
        return result

    def _peek(self) -> tuple[str, str]:
        return self._tokens[self._position] if self._position < len(self._tokens) else ("", "")

    def _take(self, *operators: str) -> str:
        kind, text = self._peek()
        if kind == "operator" and text in operators:
            self._position += 1
            return text
        return ""

    def _comparison(self) -> Value:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise Unsupported
        left = self._concatenation()
        while sign := self._take("=", "<>", "<", ">", "<=", ">="):
            left = _compare(sign, left, self._concatenation())
        self._depth -= 1
        return left

    def _concatenation(self) -> Value:
        left = self._sum()
        while self._take("&"):
            left = _text(left) + _text(self._sum())
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
        left = self._unary()
        while self._take("^"):
            try:
                left = float(_number(left) ** _number(self._unary()))
            except (TypeError, ArithmeticError):
                raise CellError("#NUM!") from None
        return left

    def _unary(self) -> Value:
        negative = False
        is_signed = False
        while sign := self._take("-", "+"):
            negative, is_signed = negative != (sign == "-"), True
        operand = self._primary()
        while self._take("%"):
            operand = _number(operand) / 100
        return (-_number(operand) if negative else _number(operand)) if is_signed else operand

    def _primary(self) -> Value:
        kind, text = self._peek()
        self._position += 1
        if kind == "number":
            return float(text)
        if kind == "text":
            return text.replace('""', '"')
        if kind == "logical":
            return text == "TRUE"
        if kind == "function":
            return self._call(text)
        if kind == "reference" and ":" not in text:
            return next(iter(self._reference_values(text)), None)
        if (kind, text) == ("operator", "("):
            result = self._comparison()
            if not self._take(")"):
                raise Unsupported
            return result
        raise Unsupported

    def _reference_values(self, reference: str) -> Iterator[Value]:
        sheet, _, cells = reference.replace("$", "").rpartition("!")
        name = sheet.strip("'").replace("''", "'").lower() or self._sheet
        first, _, last = cells.partition(":")
        start = parse_cell(first)
        end = parse_cell(last or first)
        if start is None or end is None:
            raise Unsupported
        yield from self._values.range(name, Range(*map(min, start, end), *map(max, start, end)))

    def _call(self, name: str) -> Value:
        if name in CONDITIONALS:
            return self._conditional(name)
        if name not in FUNCTIONS:
            raise Unsupported
        arguments: list[list[Value]] = []
        while not self._take(")"):
            kind, text = self._peek()
            following = self._tokens[self._position + 1 : self._position + 2]
            if kind == "reference" and following and following[0] in {("operator", ","), ("operator", ")")}:
                self._position += 1
                arguments.append(list(self._reference_values(text)))
            else:
                arguments.append([self._comparison()])
            if not self._take(",") and self._peek() != ("operator", ")"):
                raise Unsupported
        return FUNCTIONS[name](arguments)

    def _conditional(self, name: str) -> Value:
        """Compute IF and IFERROR; an error in the branch that is not selected is ignored."""
        arguments: list[Value | CellError] = []
        while not self._take(")"):
            depth = self._depth
            start = self._position
            try:
                arguments.append(self._comparison())
            except CellError as error:
                arguments.append(error)
                self._depth = depth
                self._position = self._argument_end(start)
            if not self._take(",") and self._peek() != ("operator", ")"):
                raise Unsupported
        if name == "IFERROR" and len(arguments) == 2:
            result = arguments[1] if isinstance(arguments[0], CellError) else arguments[0]
        elif name == "IF" and 2 <= len(arguments) <= 3:
            if isinstance(arguments[0], CellError):
                raise arguments[0]
            result = arguments[1] if _number(arguments[0]) else (arguments[2] if len(arguments) == 3 else False)
        else:
            raise Unsupported
        if isinstance(result, CellError):
            raise result
        return result

    def _argument_end(self, start: int) -> int:
        """Return the position of the `,` or `)` after the argument that starts at a token."""
        depth = 0
        for position in range(start, len(self._tokens)):
            kind, text = self._tokens[position]
            if depth == 0 and (kind, text) in {("operator", ","), ("operator", ")")}:
                return position
            depth += (kind == "function" or text == "(") - ((kind, text) == ("operator", ")"))
        raise Unsupported


def _tokenize(text: str) -> list[tuple[str, str]]:
    tokens: list[tuple[str, str]] = []
    position = 0
    text = text.strip().removeprefix("=").removeprefix("_xlfn.")
    while position < len(text):
        match = TOKEN.match(text, position)
        if match is None:
            raise Unsupported
        tokens.append((match.lastgroup or "", match[match.lastgroup or 0]))
        position = match.end()
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


def _text(value: Value) -> str:
    if isinstance(value, bool):
        return str(value).upper()
    return value if isinstance(value, str) else "" if value is None else number_formats.format_general(value)


def _compare(sign: str, left: Value, right: Value) -> bool:
    compare = number_formats.COMPARISONS[sign]
    if isinstance(left, str) or isinstance(right, str):
        return bool(compare(_text(left).lower(), _text(right).lower()))
    return bool(compare(_number(left), _number(right)))


def _numbers(arguments: list[list[Value]]) -> list[float]:
    """Return the numbers in the arguments; texts, booleans and empty cells are ignored."""
    flat = [value for values in arguments for value in values]
    return [float(v) for v in flat if isinstance(v, int | float) and not isinstance(v, bool)]


def _average(arguments: list[list[Value]]) -> float:
    numbers = _numbers(arguments)
    if not numbers:
        raise CellError("#DIV/0!")
    return math.fsum(numbers) / len(numbers)


def _round(arguments: list[list[Value]]) -> float:
    if len(arguments) != 2 or not all(len(values) == 1 for values in arguments):
        raise Unsupported
    number = _number(arguments[0][0])
    decimals = int(_number(arguments[1][0]))
    factor = 10.0**decimals
    return math.copysign(math.floor(abs(number) * factor + 0.5) / factor, number)


def _single_number(arguments: list[list[Value]]) -> float:
    if len(arguments) != 1 or len(arguments[0]) > 1:
        raise Unsupported
    return _number(arguments[0][0] if arguments[0] else None)


CONDITIONALS = frozenset({"IF", "IFERROR"})
FUNCTIONS: dict[str, Callable[[list[list[Value]]], Value]] = {
    "SUM": lambda a: math.fsum(_numbers(a)),
    "AVERAGE": _average,
    "MIN": lambda a: min(_numbers(a), default=0.0),
    "MAX": lambda a: max(_numbers(a), default=0.0),
    "COUNT": lambda a: float(len(_numbers(a))),
    "COUNTA": lambda a: float(sum(len(values) for values in a)),
    "PRODUCT": lambda a: math.prod(_numbers(a)),
    "ROUND": _round,
    "ABS": lambda a: abs(_single_number(a)),
    "INT": lambda a: float(math.floor(_single_number(a))),
}
