"""Conformance vectors of Model Signing, from a checkout that the variable DRW_CONFORMANCE names.

It is a checkout of ossf/model-signing-spec (bundles without their models), or of sigstore/model-transparency (models
with signatures of several releases, and the keys).
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from drw.model_files.errors import SignatureRejected
from drw.model_files.manifest import digest
from drw.model_files.signatures.bundle import parse_bundle, parse_statement
from drw.model_files.signatures.trust import TrustPolicy
from drw.model_files.signatures.verification import verify

CHECKOUT = Path(os.environ.get("DRW_CONFORMANCE") or "/nonexistent")
BUNDLES = sorted(CHECKOUT.glob("test-vectors/v1.0/*/*.bundle.json"))
MODELS = sorted(path.parent for path in CHECKOUT.glob("scripts/tests/v*/model.sig"))
KEYS = CHECKOUT / "scripts/tests/keys/certificate"
NOT_SUPPORTED = {"v0.2.0-certificate": "does not match the key of the certificate"}
"""Its statement has another type, and a fault of that release changed the signed bytes."""

pytestmark = pytest.mark.skipif("DRW_CONFORMANCE" not in os.environ, reason="DRW_CONFORMANCE is not set")


def test_checkout_has_vectors() -> None:
    assert BUNDLES or MODELS


@pytest.mark.parametrize("file", BUNDLES, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_bundle_is_parsed_or_refused(file: Path) -> None:
    data = file.read_bytes()
    if file.parent.name == "invalid":
        with pytest.raises(SignatureRejected):
            parse_bundle(data)
        return
    bundle = parse_bundle(data)
    if file.parent.name == "valid":
        assert parse_statement(bundle.payload).resources
        assert bundle.method == file.name.partition(".")[0]
    else:
        with pytest.raises(SignatureRejected, match="predicateType"):
            parse_statement(bundle.payload)


@pytest.mark.parametrize("folder", MODELS, ids=lambda folder: folder.name)
def test_signature_of_a_model_is_verified(folder: Path) -> None:
    policy = TrustPolicy.load([(KEYS / "signing-key-pub.pem").read_bytes()], [(KEYS / "ca-cert.pem").read_bytes()])
    manifest = digest(folder, exclude=("model.sig", "ignore-me"))
    data = (folder / "model.sig").read_bytes()
    at = datetime(2026, 1, 1, tzinfo=UTC)
    if folder.name.endswith("sigstore") or folder.name in NOT_SUPPORTED:
        with pytest.raises(SignatureRejected, match=NOT_SUPPORTED.get(folder.name, "keyless")):
            verify(data, manifest, policy, at=at)
    else:
        assert verify(data, manifest, policy, at=at).method in folder.name.replace("elliptic-", "")
