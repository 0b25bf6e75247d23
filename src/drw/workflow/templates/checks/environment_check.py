"""Checks what a template reaches outside of the platform: hosts, events and secrets that the operator has declared.

Only new templates are checked. A stored one stays readable when the operator removes a declaration; its step fails.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from pydantic import JsonValue

from drw.egress.addresses import Url, parse_url
from drw.egress.http_hosts import HttpHosts, Origin, origin_of, origin_of_entry
from drw.expressions.placeholders import placeholders, secret_name, texts_in
from drw.kernel.errors import InvalidRequest
from drw.kernel.rpc.context import Principal
from drw.kernel.runtime.settings import Workflow
from drw.workflow.templates.checks.node_check import all_nodes
from drw.workflow.templates.problems import Problem, nearest
from drw.workflow.templates.schema import CompensationSource, NodeSource, TemplateSource
from drw.workflow.templates.yaml_source import Path, Positions


@dataclass(frozen=True, slots=True)
class Environment:
    """The declarations that the templates of one desk can use."""

    hosts: HttpHosts
    events: frozenset[str]
    secrets: Mapping[str, frozenset[Origin]] = field(default_factory=dict)
    """The hosts to which each secret can be sent."""

    @classmethod
    def of(cls, settings: Workflow, caller: Principal) -> Environment:
        """Return the environment of a caller's desk."""
        secrets: dict[str, frozenset[Origin]] = {}
        for secret in sorted(settings.secrets, key=lambda secret: secret.desk):  # those of the desk win
            if secret.org == caller.org and secret.desk in ("", caller.desk):
                secrets[secret.name] = frozenset(origin_of_entry(host) for host in secret.hosts)
        return cls(HttpHosts(settings.http_hosts, settings.http_networks), frozenset(settings.events), secrets)


def check(template: TemplateSource, positions: Positions, environment: Environment) -> Iterator[Problem]:
    """Yield the problems of a template that is otherwise valid."""
    for node, path in all_nodes(template.nodes, ("nodes",)):
        yield from _node(node, path, positions, environment)
        if node.compensate:
            yield from _node(node.compensate, (*path, "compensate"), positions, environment)


def _node(
    node: NodeSource | CompensationSource, path: Path, positions: Positions, environment: Environment
) -> Iterator[Problem]:
    place: Path = (*path, "with")
    origin = None
    if node.uses == "http":
        try:
            if url := _fixed_url(node.with_.get("url")):
                origin = origin_of(url)
                environment.hosts.check(url)
        except InvalidRequest as error:
            yield positions.problem((*place, "url"), error.message)
            origin = None
    name = node.with_.get("name")
    if node.uses == "event" and isinstance(name, str) and "${" not in name and name not in environment.events:
        message = f"the event {name!r} is not declared; {nearest(name, environment.events)}"
        yield positions.problem((*place, "name"), message)
    yield from _secrets(dict(node.with_), place, positions, environment, origin)


def _secrets(
    value: JsonValue, path: Path, positions: Positions, environment: Environment, origin: Origin | None
) -> Iterator[Problem]:
    for place, text in texts_in(value, path):
        for placeholder in placeholders(text):
            name = secret_name(placeholder.expression)
            if not name:
                continue
            message = ""
            if name not in environment.secrets:
                message = f"the desk has no secret {name!r}; {nearest(name, environment.secrets)}"
            elif origin and origin not in environment.secrets[name]:
                message = f"the secret {name!r} cannot be sent to {origin[1]!r}: it is not in its hosts"
            if message:
                yield positions.problem(place, message, offset=placeholder.start + 2)


def _fixed_url(text: JsonValue) -> Url | None:
    """Return a URL whose host has no placeholder; None: the host depends on values."""
    if not isinstance(text, str):
        return None
    fixed = text.partition("${")[0]
    if fixed == text:
        return parse_url(text)
    scheme, _, rest = fixed.partition("://")
    return parse_url(f"{scheme}://{rest.partition('/')[0]}/") if "/" in rest else None
