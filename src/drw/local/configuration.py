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

SECRETS = ("secret", "password", "token", "api_key", "salt_key")
"""How the names of settings end that nobody should see on a screen or in a bug report."""
PASSWORD = re.compile(
    r"(?<=://)[^\s/@]*:[^\s/@]*(?=@)"  # of a URL
    r"|(?i:(?<=password=)|(?<=password\s=)|(?<=password\s=\s)|(?<=password=\s))(?:'(?:[^'\\]|\\.)*'|[^\s'&]+)"
)
"""What nobody should see of a connection string."""
HIDDEN = "(set, not shown)"
ANY = "*"
"""Stands in a path for a name that the operator chooses, as of a model."""
REQUIRED = "required"
MAX_LINES = 2000
"""Of longer files no line is looked for: they are read again and again, up to one line or another."""
MAX_SHOWN = 60

Keys = tuple[str, ...]


class KnownSetting(NamedTuple):
    """A known setting."""

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


def known() -> list[KnownSetting]:
    """Return all known settings, those of the profile first."""
    profile_settings = [setting for setting in _known(Profile, ()) if setting.path != ("services",)]
    return profile_settings + [s for name, cls in _sections().items() for s in _known(cls, ("services", name))]


def listed(layers: SettingLayers) -> list[Setting]:
    """Return all settings with their values and origins."""
    settings = []
    for path, default, description in known():
        for each in _here(path, layers.data):
            name = ".".join(each)
            value = _at(layers.data, each, default)
            settings.append(Setting(name, value, default, layers.origins.get(name, "default"), description))
    return settings


def public(name: str, value: Any) -> Any:
    """Return what may be seen of a setting: of a secret, or of a password in a text, that it is set."""
    if isinstance(value, str):
        return HIDDEN if value and name.endswith(SECRETS) else PASSWORD.sub(HIDDEN, value)
    if isinstance(value, dict):
        return {key: public(key, inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [public(name, inner) for inner in value]
    return HIDDEN if value and name.endswith(SECRETS) else value


def faults(layers: SettingLayers) -> list[str]:
    """Return an error message for each invalid setting, with its file and line, or its environment variable."""
    services = layers.data.get("services", {})
    problems = list(_faults(layers, Profile, layers.data, ()))
    for name, section in services.items() if isinstance(services, dict) else ():
        path = ("services", name)
        if name not in BY_NAME:
            problems.append(f"{_where(layers, path)}{_unknown(path, [('services', other) for other in BY_NAME])}")
        elif isinstance(section, dict):
            problems += _faults(layers, _sections().get(name, Settings), section, path)
    return problems


def _faults(layers: SettingLayers, cls: type[Settings], values: Mapping[str, Any], prefix: Keys) -> Iterator[str]:
    try:
        cls.model_validate(values)
    except ValidationError as error:
        for fault in error.errors(include_url=False):
            path = prefix + tuple(str(part) for part in fault["loc"])
            yield f"{_where(layers, path)}{_said(path, fault)}"


def _said(path: Keys, fault: Any) -> str:
    name, kind, message = ".".join(path), fault["type"], fault["msg"].removeprefix("Value error, ")
    if kind == "extra_forbidden":
        return _unknown(path, (setting.path for setting in known()))
    if kind == "missing":
        return f"{name} is missing"
    if kind == "value_error":
        return f"{name}: {message}"
    secret = name.endswith(SECRETS)
    value = "" if secret or isinstance(fault["input"], dict) else f" is {_cut(repr(public(name, fault['input'])))}"
    return f"{name}{value}: {message[:1].lower()}{message[1:]}"


def _unknown(path: Keys, there: Iterable[Keys]) -> str:
    beside = {p[len(path) - 1] for p in there if len(p) >= len(path) and _fits(p[: len(path) - 1], path[:-1])} - {ANY}
    name, message = path[-1], f"{'.'.join(path)} is not a setting"
    if len(path) == 1 and name in BY_NAME:
        return f"{message}; did you mean 'services.{name}'?"
    if near := difflib.get_close_matches(name, beside, 1):
        return f"{message}; did you mean {near[0]!r}?"
    return f"{message}; there are: {', '.join(sorted(beside)) or 'none'}"


def _where(layers: SettingLayers, path: Keys) -> str:
    """Return the file and line of the setting, or of the nearest table around it, as a message prefix."""
    for length in range(len(path), 0, -1):
        name = ".".join(path[:length])
        inside = [o for key, o in layers.origins.items() if key == name or key.startswith(f"{name}.")]
        if inside:
            line = _line(Path(inside[-1]), path[:length])
            return f"{inside[-1]}:{line}: " if line else f"{inside[-1]}: "
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
    """Tell whether the file sets this up to a line, or to the end of the value that goes on after it."""
    for end in range(number, len(lines) + 1):
        try:
            return _at(tomllib.loads("".join(lines[:end])), path, None) is not None
        except tomllib.TOMLDecodeError:
            continue  # inside a multi-line value
    return False


def _sections() -> dict[str, type[Settings]]:
    """Return the `Settings` class of each service that has a `settings` module."""
    modules = {name: f"{row.package}.settings" for name, row in BY_NAME.items()}
    return {name: import_module(module).Settings for name, module in modules.items() if find_spec(module)}


def _known(cls: type[Settings], prefix: Keys) -> Iterator[KnownSetting]:
    for name, field in cls.model_fields.items():
        path = (*prefix, name)
        if inner := _inner(field.annotation):
            yield from _known(inner, (*path, ANY) if get_origin(field.annotation) is dict else path)
        else:
            default = REQUIRED if field.is_required() else field.get_default(call_default_factory=True)
            yield KnownSetting(path, to_jsonable_python(default), " ".join((field.description or "").split()))


def _inner(annotation: Any) -> type[Settings] | None:
    """Return the settings model inside a type: plain, optional, or a mapping by name."""
    if isclass(annotation) and issubclass(annotation, Settings):
        return annotation
    within = () if get_origin(annotation) is tuple else get_args(annotation)
    return next((model for part in within if (model := _inner(part))), None)


def _here(path: Keys, data: Mapping[str, Any]) -> list[Keys]:
    """Expand a path with a wildcard into one path for each configured name."""
    if ANY not in path:
        return [path]
    index = path.index(ANY)
    chosen = _at(data, path[:index], {})
    names = chosen if isinstance(chosen, dict) else ()
    return [paths for name in names for paths in _here((*path[:index], name, *path[index + 1 :]), data)]


def _fits(pattern: Sequence[str], path: Sequence[str]) -> bool:
    return len(pattern) == len(path) and all(p in (ANY, part) for p, part in zip(pattern, path, strict=True))


def _at(data: Any, path: Keys, default: Any) -> Any:
    for part in path:
        if not isinstance(data, dict) or part not in data:
            return default
        data = data[part]
    return data


def _cut(text: str) -> str:
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."
