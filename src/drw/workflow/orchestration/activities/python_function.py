"""The `python` activity: calls a function that the deployer registers in the settings or by an entry point."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

import orjson
from pydantic import Field

from drw.kernel.errors import ConfigError, InvalidRequest
from drw.workflow.orchestration.activities.activity import Activity, Arguments, Function, Services, StepContext

ENTRY_POINT = "drw.workflow.functions"


class PythonArguments(Arguments):
    """The name of the function, and its arguments."""

    function: str
    arguments: dict[str, Any] = Field(default_factory=dict)


def load(settings: Mapping[str, str]) -> dict[str, Function]:
    """Import the functions: those of entry points, and those of the settings, which win.

    Raises:
        ConfigError: a function does not exist.
    """
    paths = {point.name: point.value for point in entry_points(group=ENTRY_POINT)} | dict(settings)
    return {name: _import(name, path) for name, path in paths.items()}


async def perform(services: Services, step_context: StepContext, arguments: PythonArguments) -> Any:
    """Return the result of the function. Functions that are not coroutines run in a thread.

    Raises:
        InvalidRequest: the function does not exist, fails, or returns something that is not JSON.
    """
    function = services.functions.get(arguments.function)
    if function is None:
        names = ", ".join(sorted(services.functions)) or "none"
        raise InvalidRequest(f"there is no function {arguments.function!r}; there are: {names}")
    try:
        if inspect.iscoroutinefunction(function):
            result = await function(arguments.arguments, step_context)
        else:
            result = await asyncio.to_thread(function, arguments.arguments, step_context)
        return orjson.loads(orjson.dumps(result))
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # Without the message, which can contain values.
        raise InvalidRequest(f"the function {arguments.function!r} raised {type(error).__name__}") from error


def _import(name: str, path: str) -> Function:
    module, _, attribute = path.partition(":")
    try:
        function: Function = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"the function {name!r} is {path!r}, which cannot be imported: {error}") from error
    if not callable(function):
        raise ConfigError(f"the function {name!r} is {path!r}, which is not a function")
    return function


ACTIVITY = Activity(PythonArguments, (), perform)
