"""Renders an OpenAPI document as Markdown: a page for each tag with its operations, and a page of all schemas."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

Schema = Mapping[str, Any]

SCHEMAS = "schemas.md"
BOUNDS = {
    "minimum": "minimum {}",
    "maximum": "maximum {}",
    "minLength": "minimum length {}",
    "maxLength": "maximum length {}",
    "minItems": "minimum items {}",
    "maxItems": "maximum items {}",
    "format": "{}",
    "pattern": "matches `{}`",
    "default": "default `{}`",
}


def pages(document: Schema) -> dict[str, str]:
    """Return the Markdown of each page by its file name: an index, a page for each tag, and the schemas."""
    operations = [
        (verb.upper(), path, operation)
        for path, verbs in document["paths"].items()
        for verb, operation in verbs.items()
    ]
    pages_by_path = {"index.md": _index(document, operations), SCHEMAS: _schemas(document["components"]["schemas"])}
    for tag in document["tags"]:
        tag_operations = [operation for operation in operations if tag["name"] in operation[2]["tags"]]
        pages_by_path[f"{slug(tag['name'])}.md"] = _tag(tag, tag_operations, document)
    return pages_by_path


def slug(name: str) -> str:
    """Return a name as part of an address: lower case, with hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _index(document: Schema, operations: Iterable[tuple[str, str, Schema]]) -> str:
    lines = [f"# {document['info']['title']}: operations", "", document["info"]["description"], ""]
    lines += ["Every operation of [openapi.json](../openapi.json), by service. ", f"[All schemas]({SCHEMAS}).", ""]
    lines += ["| operation | | service |", "| --- | --- | --- |"]
    for verb, path, operation in operations:
        page = f"{slug(operation['tags'][0])}.md"
        link = f"[`{verb} {path}`]({page}#{slug(operation['operationId'])})"
        lines.append(f"| {link} | {_cell(operation['summary'])} | [{operation['tags'][0]}]({page}) |")
    return "\n".join(lines) + "\n"


def _tag(tag: Schema, operations: Iterable[tuple[str, str, Schema]], document: Schema) -> str:
    lines = [f"# {tag['name']}", "", _text(tag["description"]), ""]
    for verb, path, operation in operations:
        lines += [f"## `{verb} {path}` {{#{slug(operation['operationId'])}}}", ""]
        lines += [_text(operation.get("description") or f"{operation['summary']}."), ""]
        if link := operation.get("externalDocs"):
            lines += [f"See [{link['description']}]({link['url']}).", ""]
        scopes = [scope for entry in operation["security"] for scope in entry["key"]]
        lines += [f"Scope: {', '.join(f'`{scope}`' for scope in scopes) or 'any key'}.", ""]
        if parameters := operation.get("parameters"):
            lines += ["**Parameters**", "", *_parameters(parameters), ""]
        for content_type, content in operation.get("requestBody", {}).get("content", {}).items():
            lines += [f"**Request body** (`{content_type}`)", "", *_schema(content["schema"]), ""]
        lines += ["**Responses**", "", *_responses(operation["responses"], document), ""]
    return "\n".join(lines)


def _parameters(parameters: Iterable[Schema]) -> Iterator[str]:
    yield "| name | in | type | description |"
    yield "| --- | --- | --- | --- |"
    for parameter in parameters:
        required = ", required" if parameter.get("required") else ""
        kind, text = _type(parameter["schema"]), _cell(parameter.get("description", ""))
        yield f"| `{parameter['name']}` | {parameter['in']}{required} | {kind} | {text} |"


def _responses(responses: Mapping[str, Schema], document: Schema) -> Iterator[str]:
    yield "| status | content | description |"
    yield "| --- | --- | --- |"
    for status, response in responses.items():
        if reference := response.get("$ref"):
            response = document["components"]["responses"][reference.rpartition("/")[2]]
        content = response.get("content", {}).items()
        kinds = " or ".join(f"`{name}`: {_type(body['schema'])}" for name, body in content)
        yield f"| {status} | {kinds} | {_cell(response['description'])} |"


def _schemas(schemas: Mapping[str, Schema]) -> str:
    lines = ["# Schemas", "", "The objects of requests and responses.", ""]
    for name, schema in schemas.items():
        lines += [f"## {name} {{#{slug(name)}}}", ""]
        if description := schema.get("description"):
            lines += [_text(description), ""]
        lines += [*_schema(schema), ""]
    return "\n".join(lines)


def _schema(schema: Schema) -> Iterator[str]:
    """Yield a table of an object's fields, or the type of anything else."""
    if "properties" not in schema:
        yield f"{_type(schema)}."
        return
    yield "| field | type | description |"
    yield "| --- | --- | --- |"
    yield from _fields(schema, "")


def _fields(schema: Schema, prefix: str) -> Iterator[str]:
    required = schema.get("required", ())
    for name, inner in schema["properties"].items():
        mark = ", required" if name in required else ""
        yield f"| `{prefix}{name}` | {_type(inner)}{mark} | {_cell(inner.get('description', ''))} |"
        items = inner.get("items", {})
        if "properties" in inner:
            yield from _fields(inner, f"{prefix}{name}.")
        elif "properties" in items:
            yield from _fields(items, f"{prefix}{name}[].")


def _type(schema: Schema) -> str:
    """Return the type of a value as Markdown, with links to named schemas."""
    if reference := schema.get("$ref"):
        name = reference.rpartition("/")[2]
        return f"[{name}]({SCHEMAS}#{slug(name)})"
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    for union in ("anyOf", "oneOf", "allOf"):
        if union in schema:
            return (" and " if union == "allOf" else " or ").join(dict.fromkeys(map(_type, schema[union])))
    bounds = [text.format(str(schema[key]).replace("|", "\\|")) for key, text in BOUNDS.items() if key in schema]
    return f"{_type_names(schema)} ({', '.join(bounds)})" if bounds else _type_names(schema)


def _type_names(schema: Schema) -> str:
    kinds = schema.get("type", "any value")
    kinds = kinds if isinstance(kinds, list) else [kinds]
    return " or ".join(_type_name(kind, schema) for kind in kinds)


def _type_name(kind: str, schema: Schema) -> str:
    if kind == "array" and "items" in schema:
        return f"array of {_type(schema['items'])}"
    if kind == "object" and isinstance(values := schema.get("additionalProperties"), Mapping):
        return f"map of {_type(values)}"
    return kind


def _text(text: str) -> str:
    """Return text escaped for Markdown, except for code in backticks."""
    return re.sub(r"(`[^`]*`)|([<*_\[\]{}|])", lambda match: match[1] or f"\\{match[2]}", text)


def _cell(text: str) -> str:
    """Return text for one cell of a table."""
    return _text(" ".join(text.split()))
