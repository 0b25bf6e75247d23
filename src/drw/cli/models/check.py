"""`drw models check`: inspects model files offline, without a platform."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from drw.cli.options import Json, warn, write_json, write_table
from drw.kernel.errors import InvalidRequest

if TYPE_CHECKING:
    from drw.model_files.inspection import Inspection
    from drw.model_files.signatures.trust import TrustPolicy
    from drw.model_files.signatures.verification import Verified

MAX_SHOWN = 20
"""Files, inputs and outputs of a model that the text output lists."""


def check(
    path: Annotated[Path, typer.Argument(help="Folder or file of the model.", show_default=False)],
    signature: Annotated[
        Path | None,
        typer.Option(help="Signature bundle (OpenSSF Model Signing v1.0).", show_default=False, dir_okay=False),
    ] = None,
    public_key: Annotated[
        list[Path] | None,
        typer.Option(help="Trusted public key (PEM); repeatable.", show_default=False, metavar="<file>"),
    ] = None,
    certificate_root: Annotated[
        list[Path] | None,
        typer.Option(help="Trusted root certificates (PEM); repeatable.", show_default=False, metavar="<file>"),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(help="Relative path to leave out; repeatable.", show_default=False, metavar="<path>"),
    ] = None,
    sbom: Annotated[
        Path | None,
        typer.Option(help="Write a CycloneDX ML-BOM to this file.", show_default=False, dir_okay=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check the files of a model: format, digest, chat template and signature. Exits with 1 if the model is refused."""
    from drw.model_files.errors import ModelRejected, SignatureRejected
    from drw.model_files.inspection import inspect
    from drw.model_files.limits import DEFAULT

    policy = _policy(signature, public_key or (), certificate_root or ())
    excluded = [*(exclude or ()), *_inside(path, signature), *_inside(path, sbom)]
    inspection: Inspection | None = None
    verified: Verified | None = None
    reasons: tuple[str, ...] = ()
    verdict = "none"
    try:
        inspection = inspect(path, exclude=excluded)
        if signature is not None and policy is not None:
            from drw.model_files.signatures.verification import verify

            with signature.open("rb") as file:
                bundle = file.read(DEFAULT.bundle_bytes + 1)
            verified = verify(bundle, inspection.manifest, policy)
            verdict = "valid"
    except SignatureRejected as error:
        reasons, verdict = error.reasons, "invalid"
    except ModelRejected as error:
        reasons, verdict = error.reasons, "unchecked" if signature else "none"
    if sbom is not None and inspection is not None and not reasons:
        from drw.model_files.sbom import ml_bom

        sbom.write_text(json.dumps(ml_bom(inspection), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    report = _report(inspection, verified, verdict, reasons)
    if as_json:
        write_json(report)
    else:
        _print(report)
    raise typer.Exit(1 if reasons else 0)


def _policy(signature: Path | None, keys: Any, roots: Any) -> TrustPolicy | None:
    if signature is None:
        if keys or roots:
            raise InvalidRequest("--public-key and --certificate-root need --signature BUNDLE")
        return None
    if not keys and not roots:
        raise InvalidRequest("--signature needs a trusted signer: give --public-key or --certificate-root")
    from drw.model_files.signatures.trust import TrustPolicy

    return TrustPolicy.load((file.read_bytes() for file in keys), (file.read_bytes() for file in roots))


def _inside(folder: Path, file: Path | None) -> list[str]:
    """Return the relative path of a file inside the model, which is then not part of it."""
    if file is None or not folder.is_dir():
        return []
    resolved = file.parent.resolve() / file.name
    return [str(resolved.relative_to(folder.resolve()))] if resolved.is_relative_to(folder.resolve()) else []


def _report(
    inspection: Inspection | None, verified: Verified | None, verdict: str, reasons: tuple[str, ...]
) -> dict[str, Any]:
    return {
        "accepted": not reasons,
        "reasons": list(reasons),
        "digest": inspection.manifest.digest if inspection else None,
        "root_digest": inspection.manifest.root_digest if inspection else None,
        "files": [file._asdict() for file in inspection.manifest.files] if inspection else [],
        "signature": {"verdict": verdict, **(asdict(verified) if verified else {})},
        "description": asdict(inspection.description) if inspection else None,
    }


def _print(report: dict[str, Any]) -> None:
    rows: list[tuple[str, object]] = [("verdict", "accepted" if report["accepted"] else "refused")]
    description = report["description"] or {}
    rows += [(name, report[name]) for name in ("digest", "root_digest") if report[name]]
    signature = report["signature"]
    rows.append(("signature", " by ".join(filter(None, (signature["verdict"], signature.get("signer"))))))
    rows += [(name, description[name]) for name in ("format", "architecture", "parameters") if description.get(name)]
    rows += [("dtypes", " ".join(f"{name}={number}" for name, number in description.get("dtypes", ())))]
    rows += [(name, description[name]) for name in ("context_length", "tokenizer", "licence") if description.get(name)]
    rows += [("chat template", f"{len(description['chat_template']):,} characters")] if _has_template(report) else []
    for name in ("datasets", "base_models"):
        rows += [(name, ", ".join(description[name]))] if description.get(name) else []
    for name in ("inputs", "outputs"):
        rows += [(name, _tensor(tensor)) for tensor in description.get(name, ())[:MAX_SHOWN]]
    rows += [("file", f"{file['size']:,} bytes  {file['path']}") for file in report["files"][:MAX_SHOWN]]
    if len(report["files"]) > MAX_SHOWN:
        rows.append(("", f"... {len(report['files']):,} files"))
    write_table(("FIELD", "VALUE"), [(name, value) for name, value in rows if value != ""])
    for reason in report["reasons"]:
        warn(f"drw: {reason}")


def _has_template(report: dict[str, Any]) -> bool:
    return bool(report["description"] and report["description"]["chat_template"])


def _tensor(tensor: dict[str, Any]) -> str:
    shape = "unknown rank" if tensor["shape"] is None else "[" + ", ".join(map(str, tensor["shape"])) + "]"
    return f"{tensor['name']}: {tensor['dtype']} {shape}"
