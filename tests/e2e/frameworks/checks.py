"""Runs the checks of a script and prints their errors as JSON, by name; a check that passes has the error ""."""

# mypy: ignore-errors
import asyncio
import inspect
import json
import sys
import traceback

url, key = sys.argv[1:]
base_url = f"{url}/v1"
MODEL, EMBEDDING_MODEL = "smollm2-135m-instruct", "all-minilm-l6-v2"
QUESTION = "What is the price of AAPL in USD?"


def error_of(check) -> str:
    try:
        if inspect.iscoroutinefunction(check):
            asyncio.run(check())
        else:
            check()
    except Exception:  # noqa: BLE001 - the next checks run all the same
        return traceback.format_exc()
    return ""


def run(checks: dict[str, object]) -> None:
    """Run the functions of a module whose names start with `check_`."""
    print(json.dumps({name: error_of(check) for name, check in checks.items() if name.startswith("check_")}))


def raises(errors, call) -> Exception:
    """Return the error of a call, which must be of the class."""
    try:
        result = call()
    except errors as error:
        return error
    raise AssertionError(f"no error: {result!r}")
