"""Model card of a version in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any


def markdown(version: dict[str, Any]) -> str:
    """Return the model card of a version, as GetVersion returns it."""
    return "\n".join(_lines(version)).rstrip() + "\n"


def _lines(version: dict[str, Any]) -> Iterator[str]:
    yield f"# {version['id']}\n"
    if version["description"]:
        yield version["description"] + "\n"
    yield from _list(
        ("Stage", version["stage"].lower()),
        ("Traffic", version["blocked"] or "permitted"),
        ("Kind", version["kind"].lower()),
        ("Owner", version["owner"]),
        ("Licence", version["licence"]),
        ("Digest", version["digest"]),
        ("Signed by", version["signer"]),
        ("Files", _deleted(version)),
        ("Aliases", ", ".join(version["aliases"])),
    )
    yield "\n## Signature\n"
    yield from _list(
        ("Engine", version["engine"]),
        ("Format", version["format"]),
        ("Architecture", version["architecture"]),
        ("Parameters", version["parameters"]),
        ("Context length", version["context_length"]),
        *(("Input", _tensor(tensor)) for tensor in version["inputs"]),
        *(("Output", _tensor(tensor)) for tensor in version["outputs"]),
    )
    lineage = version.get("lineage") or {}
    yield "\n## Lineage\n"
    yield from _list(
        ("Data", ", ".join(lineage.get("data", ()))),
        ("Parent", lineage.get("parent", "")),
        ("Training run", lineage.get("training_run", "")),
        ("Registered", f"{version['registered_at']} by {version['registered_by']}"),
    )
    yield "\n## Evaluation\n"
    for evaluation in version["evaluations"]:
        metrics = ", ".join(f"{name} {value:g}" for name, value in sorted(evaluation["metrics"].items()))
        yield f"- {evaluation['suite']}: {metrics}"
    yield "\n## Validation\n"
    for validation in version["validations"]:
        yield from _validation(validation)


def _validation(validation: dict[str, Any]) -> Iterator[str]:
    record = validation["record"]
    yield f"### {validation['id']}\n"
    yield from _list(
        ("Validator", validation["validator"]),
        ("Approved by", validation["approved_by"]),
        ("Revoked", validation["revoke_reason"]),
        ("Scope", f"{record['scope'].lower().replace('_', ' ')}: {record['scope_reason']}"),
        ("Purpose", record["purpose"]),
        ("Exposure", record["exposure"]),
        ("Materiality", record["materiality"].removeprefix("MATERIALITY_").lower().replace("unspecified", "")),
        ("Owner", record["owner"]),
        *(("Assumption", text) for text in record["assumptions"]),
        *(("Limit", text) for text in record["limits"]),
        *(("Finding", _finding(finding)) for finding in record["findings"]),
        *(("Review trigger", text) for text in record["review_triggers"]),
        ("Expires", record["expires_at"]),
    )
    yield ""


def _finding(finding: dict[str, Any]) -> str:
    state = "resolved" if finding["resolved"] else f"due {finding['due_at'][:10]}"
    return f"{finding['title']} ({finding['severity'].lower()}, {state})"


def _deleted(version: dict[str, Any]) -> str:
    at = version.get("files_deleted_at")
    return f"deleted on {at[:10]} by {version['files_deleted_by']}" if at else ""


def _tensor(tensor: dict[str, Any]) -> str:
    return f"{tensor['name']}: {tensor['datatype'] or 'unknown'} {tensor['shape']}"


def _list(*items: tuple[str, Any]) -> Iterable[str]:
    return [f"- {name}: {value}" for name, value in items if value]
