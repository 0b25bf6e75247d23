"""Settings of a platform: the list with current values, and validation with file and line."""

from __future__ import annotations

import difflib
import re
import tomllib
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from inspect import isclass
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_origin

from pydantic import ValidationError
from pydantic_core import to_jsonable_python

from drw.catalog import BY_NAME
from drw.kernel.runtime.settings import Profile, SettingLayers, Settings

SECRET_SUFFIXES = ("secret", "password", "token", "api_key", "salt_key")
"""Suffixes of the names of settings whose values are never shown."""
PASSWORD_PATTERN = re.compile(
    r"(?<=://)[^\s/@]*:[^\s/@]*(?=@)"  # of a URL
    r"|(?i:(?<=password=)|(?<=password\s=)|(?<=password\s=\s)|(?<=password=\s))(?:'(?:[^'\\]|\\.)*'|[^\s'&]+)"
)
"""Matches the password in a URL or a connection string."""
HIDDEN = "(set, not shown)"
WILDCARD = "*"
"""Path segment for a name that the operator chooses, such as that of a model."""
REQUIRED = "required"
MAX_LINES = 2000
"""No line numbers for longer files, because the search parses the file several times."""
MAX_VALUE_LENGTH = 60

Keys = tuple[str, ...]


class SettingDefinition(NamedTuple):
    """Path, default and description of a setting."""

    path: Keys
    default: Any
    description: str


class Setting(NamedTuple):
    """A setting with its current value and origin."""

    name: str
    value: Any
    default: Any
    origin: str
    description: str


def known_settings() -> list[SettingDefinition]:
    """Return all known settings, those of the profile first."""
    profile_settings = [setting for setting in _definitions(Profile, ()) if setting.path != ("services",)]
    return profile_settings + [s for name, cls in _sections().items() for s in _definitions(cls, ("services", name))]


def current_settings(layers: SettingLayers) -> list[Setting]:
    """Return all settings with their values and origins."""
    settings = []
    for path, default, description in known_settings():
        for concrete in _expand(path, layers.data):
            name = ".".join(concrete)
            value = _lookup(layers.data, concrete, default)
            settings.append(Setting(name, value, default, layers.origins.get(name, "default"), description))
    return settings


def redacted(name: str, value: Any) -> Any:
    """Return the value with secrets and passwords hidden."""
    if isinstance(value, str):
        return HIDDEN if value and name.endswith(SECRET_SUFFIXES) else PASSWORD_PATTERN.sub(HIDDEN, value)
    if isinstance(value, dict):
        return {key: redacted(key, inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(name, inner) for inner in value]
    return HIDDEN if value and name.endswith(SECRET_SUFFIXES) else value


def errors(layers: SettingLayers) -> list[str]:
    """Return an error message for each invalid setting, with its file and line, or its environment variable."""
    services = layers.data.get("services", {})
    messages = list(_errors(layers, Profile, layers.data, ()))
    for name, section in services.items() if isinstance(services, dict) else ():
        path = ("services", name)
        if name not in BY_NAME:
            messages.append(f"{_location(layers, path)}{_unknown(path, [('services', other) for other in BY_NAME])}")
        elif isinstance(section, dict):
            messages += _errors(layers, _sections().get(name, Settings), section, path)
    return messages


def _errors(layers: SettingLayers, cls: type[Settings], values: Mapping[str, Any], prefix: Keys) -> Iterator[str]:
    try:
        cls.model_validate(values)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            path = prefix + tuple(str(part) for part in detail["loc"])
            yield f"{_location(layers, path)}{_message(path, detail)}"


def _message(path: Keys, detail: Any) -> str:
    name, error_type, message = ".".join(path), detail["type"], detail["msg"].removeprefix("Value error, ")
    if error_type == "extra_forbidden":
        return _unknown(path, (setting.path for setting in known_settings()))
    if error_type == "missing":
        return f"{name} is missing"
    if error_type == "value_error":
        return f"{name}: {message}"
    secret = name.endswith(SECRET_SUFFIXES)
    value = (
        ""
        if secret or isinstance(detail["input"], dict)
        else f" is {_truncated(repr(redacted(name, detail['input'])))}"
    )
    return f"{name}{value}: {message[:1].lower()}{message[1:]}"


def _unknown(path: Keys, settings: Iterable[Keys]) -> str:
    siblings = {
        p[len(path) - 1] for p in settings if len(p) >= len(path) and _matches(p[: len(path) - 1], path[:-1])
    } - {WILDCARD}
    name, message = path[-1], f"{'.'.join(path)} is not a setting"
    if len(path) == 1 and name in BY_NAME:
        return f"{message}; did you mean 'services.{name}'?"
    if matches := difflib.get_close_matches(name, siblings, 1):
        return f"{message}; did you mean {matches[0]!r}?"
    return f"{message}; there are: {', '.join(sorted(siblings)) or 'none'}"


def _location(layers: SettingLayers, path: Keys) -> str:
    """Return the file and line of the setting, or of the nearest table around it, as a message prefix."""
    for length in range(len(path), 0, -1):
        name = ".".join(path[:length])
        origins = [o for key, o in layers.origins.items() if key == name or key.startswith(f"{name}.")]
        if origins:
            line = _line(Path(origins[-1]), path[:length])
            return f"{origins[-1]}:{line}: " if line else f"{origins[-1]}: "
    return ""


def _line(file: Path, path: Keys) -> int:
    """Return the line number of the setting, or 0 if unknown."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    except (OSError, UnicodeDecodeError):
        return 0
    if len(lines) > MAX_LINES:
        return 0
    first = bisect_left(range(1, len(lines) + 1), True, key=lambda number: _is_set(lines, number, path))
    return first + 1 if first < len(lines) else 0


def _is_set(lines: Sequence[str], number: int, path: Keys) -> bool:
    """Return whether the file sets this up to a line, or up to the end of a multi-line value after it."""
    for end in range(number, len(lines) + 1):
        try:
            return _lookup(tomllib.loads("".join(lines[:end])), path, None) is not None
        except tomllib.TOMLDecodeError:
            continue  # inside a multi-line value
    return False


def _sections() -> dict[str, type[Settings]]:
    """Return the `Settings` class of each service that has a `settings` module."""
    modules = {name: f"{row.package}.settings" for name, row in BY_NAME.items()}
    return {name: import_module(module).Settings for name, module in modules.items() if find_spec(module)}


def _definitions(cls: type[Settings], prefix: Keys) -> Iterator[SettingDefinition]:
    for name, field in cls.model_fields.items():
        path = (*prefix, name)
        if inner := _nested_settings(field.annotation):
            yield from _definitions(inner, (*path, WILDCARD) if get_origin(field.annotation) is dict else path)
        else:
            default = REQUIRED if field.is_required() else field.get_default(call_default_factory=True)
            yield SettingDefinition(path, to_jsonable_python(default), " ".join((field.description or "").split()))


def _nested_settings(annotation: Any) -> type[Settings] | None:
    """Return the settings model inside a type: plain, optional, or a mapping by name."""
    if isclass(annotation) and issubclass(annotation, Settings):
        return annotation
    arguments = () if get_origin(annotation) is tuple else get_args(annotation)
    return next((model for part in arguments if (model := _nested_settings(part))), None)


def _expand(path: Keys, data: Mapping[str, Any]) -> list[Keys]:
    """Expand a path with a wildcard into one path for each configured name."""
    if WILDCARD not in path:
        return [path]
    index = path.index(WILDCARD)
    table = _lookup(data, path[:index], {})
    names = table if isinstance(table, dict) else ()
    return [paths for name in names for paths in _expand((*path[:index], name, *path[index + 1 :]), data)]


def _matches(pattern: Sequence[str], path: Sequence[str]) -> bool:
    return len(pattern) == len(path) and all(p in (WILDCARD, part) for p, part in zip(pattern, path, strict=True))


def _lookup(data: Any, path: Keys, default: Any) -> Any:
    for part in path:
        if not isinstance(data, dict) or part not in data:
            return default
        data = data[part]
    return data


def _truncated(text: str) -> str:
    return text if len(text) <= MAX_VALUE_LENGTH else f"{text[:MAX_VALUE_LENGTH]}..."
