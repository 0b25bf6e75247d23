"""Tools and a schema of LangChain for the checks."""

# mypy: ignore-errors
from typing import Literal

from langchain_core.tools import tool
from pydantic import BaseModel


@tool
def price(ticker: Literal["AAPL", "MSFT"], currency: Literal["USD", "EUR"]) -> float:
    """Return the price of a stock."""
    return 101.5


@tool
def clock() -> str:
    """Return the time."""
    return "12:00"


class Trade(BaseModel):
    """A trade."""

    ticker: Literal["AAPL", "MSFT"]
    quantity: Literal[1, 5, 9]


TOOLS = [price, clock]
