"""`drw models validate`: the validation record of a version, from options, a file, or both."""

from __future__ import annotations

import json
import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from drw.cli.api import Api
from drw.cli.options import DataDir, Json, write, write_json
from drw.cli.times import parse_future
from drw.kernel.errors import InvalidRequest

FINDING = re.compile(r"(low|medium|high):(\d{4}-\d\d-\d\d|\d+[smhd]):(.+)")


class Scope(StrEnum):
    """Whether it is a model by the definition of SR 26-2."""

    IN_SCOPE = "in-scope"
    NOT_IN_SCOPE = "not-in-scope"


class Materiality(StrEnum):
    """How much depends on the output of a model."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


def validate(
    version: Annotated[str, typer.Argument(help="Version, from `drw models versions`.", show_default=False)],
    file: Annotated[
        Path | None,
        typer.Option(
            help="Validation record: JSON or YAML. Options replace its fields.",
            show_default=False,
            dir_okay=False,
            exists=True,
        ),
    ] = None,
    scope: Annotated[
        Scope | None,
        typer.Option(help="Whether it is a model by the definition of SR 26-2.", show_default=False),
    ] = None,
    scope_reason: Annotated[str, typer.Option(help="Why it is in scope or not.", show_default=False)] = "",
    purpose: Annotated[str, typer.Option(help="Intended use. Required in scope.", show_default=False)] = "",
    exposure: Annotated[str, typer.Option(help="What depends on its output. Required in scope.")] = "",
    materiality: Annotated[
        Materiality | None, typer.Option(help="How much depends on it. Required in scope.", show_default=False)
    ] = None,
    owner: Annotated[str, typer.Option(help="Who is accountable for its use.", show_default=False)] = "",
    assumption: Annotated[
        list[str] | None, typer.Option(help="Condition that must hold; repeatable.", show_default=False)
    ] = None,
    limit: Annotated[
        list[str] | None,
        typer.Option(help="Use that is not permitted; repeatable. Required in scope.", show_default=False),
    ] = None,
    finding: Annotated[
        list[str] | None,
        typer.Option(
            help="Weakness as SEVERITY:DUE:TITLE, as in high:2026-12-31:drift or low:90d:drift; repeatable.",
            show_default=False,
        ),
    ] = None,
    resolved_finding: Annotated[
        list[str] | None, typer.Option(help="The same, of a weakness that is resolved; repeatable.", show_default=False)
    ] = None,
    expires: Annotated[
        str, typer.Option(help="When the record expires, as in 2027-06-30 or 180d.", show_default=False)
    ] = "",
    review_trigger: Annotated[
        list[str] | None, typer.Option(help="Event that requires an earlier review; repeatable.", show_default=False)
    ] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Submit the validation record of a version. The validator is another person than the registrar."""
    findings = [_finding(text, resolved=False) for text in finding or ()]
    findings += [_finding(text, resolved=True) for text in resolved_finding or ()]
    options = {
        "scope": scope and scope.name,
        "scope_reason": scope_reason,
        "purpose": purpose,
        "exposure": exposure,
        "materiality": materiality and materiality.name,
        "owner": owner,
        "assumptions": assumption,
        "limits": limit,
        "findings": findings,
        "expires_at": parse_future(expires) if expires else "",
        "review_triggers": review_trigger,
    }
    record = (_read(file) if file else {}) | {name: value for name, value in options.items() if value}
    if not record:
        raise InvalidRequest("give the fields of the record as options, or --file")
    answer = Api.of(data_dir).put(f"/api/v1/model-versions/{quote(version, safe='@')}/validation", {"record": record})
    write_json(answer) if as_json else write(f"the record of {answer['id']} waits for approval")


def _finding(text: str, *, resolved: bool) -> dict[str, Any]:
    if not (match := FINDING.fullmatch(text)):
        raise InvalidRequest(f"{text!r} is not a finding: use for example high:2026-12-31:drift or low:90d:drift")
    severity, due, title = match.groups()
    return {"severity": severity.upper(), "due_at": parse_future(due), "title": title, "resolved": resolved}


def _read(file: Path) -> dict[str, Any]:
    text = file.read_text(encoding="utf-8")
    try:
        if file.suffix == ".json":
            record = json.loads(text)
        else:
            import yaml

            record = json.loads(json.dumps(yaml.safe_load(text), default=str))
    except ValueError as error:
        raise InvalidRequest(f"{file} is not JSON or YAML: {error}") from error
    except yaml.YAMLError as error:
        raise InvalidRequest(f"{file} is not YAML: {error}") from error
    if not isinstance(record, dict):
        raise InvalidRequest(f"{file} has no fields: see `docs/how-to/operate/register-models.md`")
    return record
