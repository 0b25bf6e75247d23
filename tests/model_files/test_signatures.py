"""Signatures of OpenSSF Model Signing v1.0: bundles of the reference implementation, and invalid ones."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from model_signing import hashing, signing

from drw.kernel.errors import InvalidRequest
from drw.model_files.errors import SignatureRejected
from drw.model_files.limits import Limits
from drw.model_files.manifest import digest
from drw.model_files.signatures.trust import TrustPolicy
from drw.model_files.signatures.verification import Verified, verify
from model_files.builders import write_safetensors
from model_files.signers import NOW, Authority, Draft, hint, private_key, private_pem, public_pem
from support.json_types import Json

KEY = private_key()
POLICY = TrustPolicy.load([public_pem(KEY)])


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = write_safetensors(tmp_path / "model")
    (folder / "extra").mkdir()
    (folder / "extra" / "notes.txt").write_text("notes")
    return folder


def verified(model: Path, data: bytes, policy: TrustPolicy = POLICY) -> Verified:
    return verify(data, digest(model), policy, at=NOW)


def reference(model: Path, key: ec.EllipticCurvePrivateKey, *chain: Authority) -> bytes:
    """Return the bundle that the reference implementation writes."""
    folder = model.parent
    (folder / "key.pem").write_bytes(private_pem(key))
    config = signing.Config().set_hashing_config(hashing.Config().set_ignored_paths(paths=[], ignore_git_paths=True))
    if chain:
        for number, each in enumerate(chain):
            (folder / f"{number}.pem").write_bytes(each.pem)
        config.use_certificate_signer(
            private_key=folder / "key.pem",
            signing_certificate=folder / "0.pem",
            certificate_chain=[folder / f"{number}.pem" for number in range(1, len(chain))],
        )
    else:
        config.use_elliptic_key_signer(private_key=folder / "key.pem")
    config.sign(model, folder / "model.sig")
    return (folder / "model.sig").read_bytes()


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda curve: curve.name)
def test_key_bundle_of_the_reference_implementation_is_valid(model: Path, curve: ec.EllipticCurve) -> None:
    key = private_key(curve)
    found = verified(model, reference(model, key), TrustPolicy.load([public_pem(key)]))
    assert (found.method, found.fingerprint) == ("key", hint(key))


def test_certificate_bundle_of_the_reference_implementation_is_valid(model: Path) -> None:
    root = Authority.root()
    middle = root.authority("middle")
    signer = middle.signer("model team")
    data = reference(model, signer.key, signer, middle)  # type: ignore[arg-type]
    found = verified(model, data, TrustPolicy.load(roots=[root.pem]))
    assert (found.method, found.signer) == ("certificate", "CN=model team")


def test_root_digest_is_the_subject_of_the_reference_implementation(model: Path) -> None:
    bundle = json.loads(reference(model, KEY))
    statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    assert statement["subject"][0]["digest"]["sha256"] == digest(model).root_digest


def test_bundle_of_the_reference_implementation_does_not_cover_changed_files(model: Path) -> None:
    data = reference(model, KEY)
    (model / "config.json").write_text("{}")
    with pytest.raises(SignatureRejected, match=r"config\.json differs from the signed file"):
        verified(model, data)


def test_shards_of_the_reference_implementation_are_refused_by_name(model: Path) -> None:
    (model.parent / "key.pem").write_bytes(private_pem(KEY))
    config = signing.Config().use_elliptic_key_signer(private_key=model.parent / "key.pem")
    config.set_hashing_config(hashing.Config().use_shard_serialization()).sign(model, model.parent / "model.sig")
    with pytest.raises(SignatureRejected, match="signed as 'shards' with 'sha256'"):
        verified(model, (model.parent / "model.sig").read_bytes())


def test_draft_of_these_tests_is_valid(model: Path) -> None:
    assert verified(model, Draft.of(model, KEY).data).signer == f"key {hint(KEY)}"


def test_key_is_found_without_a_hint(model: Path) -> None:
    draft = Draft.of(model, KEY)
    draft.material = {"publicKey": {"rawBytes": "AAAA", "keyDetails": "PKIX_ECDSA_P256_SHA_256"}}
    others = [public_pem(private_key()) for _ in range(3)]
    assert verified(model, draft.data, TrustPolicy.load([*others, public_pem(KEY)])).fingerprint == hint(KEY)


Change = Callable[[Draft], object]


def change(draft: Draft, path: str, value: Json) -> None:
    """Set a value of the statement by its dotted path."""
    *parents, last = path.split(".")
    at: Json = draft.statement
    for name in parents:
        at = at[int(name)] if name.isdecimal() else at[name]
    at[int(last) if last.isdecimal() else last] = value


DRAFTS: dict[str, tuple[Change, str]] = {
    "untrusted-key": (lambda d: setattr(d, "key", private_key()), "does not match the trusted key"),
    "untrusted-hint": (lambda d: d.material.update(publicKey={"hint": "00"}), "not from a trusted public key"),
    "no-hint-untrusted": (
        lambda d: vars(d).update(material={"publicKey": {"rawBytes": "AAAA"}}, key=private_key()),
        "not from a trusted public key",
    ),
    "no-key": (lambda d: d.material.update(publicKey={}), "neither hint nor rawBytes"),
    "two-methods": (lambda d: d.material.update(certificate={"rawBytes": "AAAA"}), "must have one of"),
    "no-material": (lambda d: d.material.clear(), "must have one of"),
    "media-type": (lambda d: setattr(d, "media_type", "application/json"), "media type 'application/json'"),
    "payload-type": (lambda d: setattr(d, "payload_type", "text/plain"), "the payload type is 'text/plain'"),
    "two-signatures": (lambda d: setattr(d, "signatures", 2), "exactly one signature"),
    "no-signature": (lambda d: setattr(d, "signatures", 0), "exactly one signature"),
    "statement-type": (lambda d: change(d, "_type", "https://in-toto.io/Statement/v0.1"), "_type of the statement"),
    "predicate-type": (
        lambda d: change(d, "predicateType", "https://example.com/wrong-predicate/v1.0"),
        "predicateType of the statement is 'https://example.com/wrong-predicate/v1.0'",
    ),
    "no-predicate": (lambda d: change(d, "predicate", None), "predicate is missing"),
    "shards": (lambda d: change(d, "predicate.serialization.method", "shards"), "signed as 'shards'"),
    "blake3": (lambda d: change(d, "predicate.serialization.hash_type", "blake3"), "with 'blake3'"),
    "resource-hash": (lambda d: change(d, "predicate.resources.0.algorithm", "md5"), "signed with 'md5'"),
    "no-resources": (lambda d: change(d, "predicate.resources", []), "lists no files"),
    "two-subjects": (lambda d: d.statement["subject"].append({}), "exactly one subject"),
    "subject-digest": (lambda d: change(d, "subject.0.digest", {"sha512": "00"}), "no SHA-256 digest"),
    "root-digest": (lambda d: change(d, "subject.0.digest.sha256", "0" * 64), "root digest does not match"),
    "file-twice": (lambda d: d.resources.append(dict(d.resources[0])), "twice"),
    "file-missing": (
        lambda d: change(d, "predicate.resources.0.name", "other.json"),
        "other.json is signed but missing; README.md is not signed",
    ),
    "path-traversal": (lambda d: change(d, "predicate.resources.0.name", "../README.md"), "is signed but missing"),
}


@pytest.mark.parametrize("name", DRAFTS)
def test_invalid_bundle_is_refused(name: str, model: Path) -> None:
    edit, reason = DRAFTS[name]
    draft = Draft.of(model, KEY)
    edit(draft)
    with pytest.raises(SignatureRejected, match=reason):
        verified(model, draft.data)


def test_payload_that_was_changed_after_signing_is_refused(model: Path) -> None:
    value, other = Draft.of(model, KEY).value(), Draft.of(model, KEY)
    change(other, "subject.0.name", "other")
    value["dsseEnvelope"]["payload"] = other.value()["dsseEnvelope"]["payload"]
    with pytest.raises(SignatureRejected, match="does not match the trusted key"):
        verified(model, json.dumps(value).encode())


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "cannot be read"),
        (b"[]", "not a JSON object"),
        (b'{"mediaType": "a", "mediaType": "b"}', "twice"),
        (b"[" * 100_000, "nested too deeply"),
        (b" " * (5 << 20), "more than 4,194,304 bytes"),
        (b"\xff", "cannot be read"),
    ],
    ids=["empty", "list", "duplicate-key", "deep", "large", "not-utf8"],
)
def test_malformed_bundle_is_refused(data: bytes, reason: str, model: Path) -> None:
    with pytest.raises(SignatureRejected, match=reason):
        verified(model, data)


@pytest.mark.parametrize("part", ["verificationMaterial", "dsseEnvelope", "mediaType"])
def test_bundle_without_a_part_is_refused(part: str, model: Path) -> None:
    value = Draft.of(model, KEY).value()
    del value[part]
    with pytest.raises(SignatureRejected):
        verified(model, json.dumps(value).encode())


def test_file_that_is_not_signed_is_refused_whatever_the_signer_ignores(model: Path) -> None:
    draft = Draft.of(model, KEY)
    change(draft, "predicate.serialization.ignore_paths", ["added.json"])
    (model / "added.json").write_text("{}")
    with pytest.raises(SignatureRejected, match=r"added\.json is not signed"):
        verified(model, draft.data)
    assert verify(draft.data, digest(model, exclude=["added.json"]), POLICY).method == "key"


def test_keyless_bundle_is_not_supported(model: Path) -> None:
    draft = Draft.of(model, KEY)
    draft.material = {"certificate": {"rawBytes": "AAAA"}, "tlogEntries": [{"logIndex": "1"}]}
    with pytest.raises(SignatureRejected, match=r"keyless \(Sigstore\), which is not supported"):
        verified(model, draft.data)
    del draft.material["tlogEntries"]
    with pytest.raises(SignatureRejected, match="needs an entry of the transparency log"):
        verified(model, draft.data)


def test_nothing_is_trusted_by_an_empty_policy(model: Path) -> None:
    with pytest.raises(SignatureRejected):
        verified(model, Draft.of(model, KEY).data, TrustPolicy.load())


def chained(model: Path, root: Authority, signer: Authority, *issuers: Authority) -> Verified:
    draft = Draft.of(model, signer.key, signer, *issuers)  # type: ignore[arg-type]
    return verified(model, draft.data, TrustPolicy.load(roots=[root.pem]))


def test_order_of_the_issuers_does_not_matter(model: Path) -> None:
    root = Authority.root()
    first = root.authority("first")
    second = first.authority("second")
    assert chained(model, root, second.signer(), first, second).signer == "CN=signer"


ROOT = Authority.root()
SIGNERS: dict[str, tuple[Callable[[], tuple[Authority, ...]], str]] = {
    "other-root": (lambda: (Authority.root().signer(),), "does not lead to a trusted root"),
    "self-signed": (lambda: (Authority.root("signer"),), "not for signatures"),
    "root-in-bundle": (lambda: ((other := Authority.root()).signer(), other), "does not lead to a trusted root"),
    "expired": (lambda: (ROOT.signer(days=(-30, -1)),), "valid from 2026-05-02 to 2026-05-31"),
    "not-yet-valid": (lambda: (ROOT.signer(days=(1, 30)),), "valid from 2026-06-02"),
    "for-tls": (lambda: (ROOT.signer(purpose=ExtendedKeyUsageOID.SERVER_AUTH),), "not for code signing"),
    "no-purpose": (lambda: (ROOT.signer(purpose=None),), "not for code signing"),
    "no-key-usage": (lambda: (ROOT.signer(usage=False),), "not for signatures"),
    "unknown-critical-extension": (
        lambda: (ROOT.signer(critical=x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")),),
        "no unknown critical extension",
    ),
    "issuer-is-no-authority": (
        lambda: ((middle := ROOT.signer("middle")).signer(), middle),
        "does not lead to a trusted root",
    ),
    "issuer-expired": (
        lambda: ((middle := ROOT.authority("middle", days=(-30, -1))).signer(), middle),
        "does not lead to a trusted root",
    ),
    "issuer-may-not-issue": (
        lambda: ((middle := ROOT.authority("middle", usage=False)).signer(), middle),
        "does not lead to a trusted root",
    ),
    "path-length": (
        lambda: (
            (second := (first := ROOT.authority("first", path_length=0)).authority("second")).signer(),
            second,
            first,
        ),
        "does not lead to a trusted root",
    ),
    "weak-issuer-key": (
        lambda: (
            (middle := ROOT.authority("middle", key=rsa.generate_private_key(65537, 1024))).signer(),
            middle,
        ),
        "does not lead to a trusted root",
    ),
    "wrong-curve": (lambda: (ROOT.signer(key=private_key(ec.SECP256K1())),), "P-256, P-384 or P-521"),
}


@pytest.mark.parametrize("name", SIGNERS)
def test_certificate_that_is_not_trusted_is_refused(name: str, model: Path) -> None:
    make, reason = SIGNERS[name]
    with pytest.raises(SignatureRejected, match=reason):
        chained(model, ROOT, *make())


def test_signature_by_another_key_than_that_of_the_certificate_is_refused(model: Path) -> None:
    draft = Draft.of(model, private_key(), ROOT.signer())
    with pytest.raises(SignatureRejected, match="does not match the key of the certificate"):
        verified(model, draft.data, TrustPolicy.load(roots=[ROOT.pem]))


def test_certificate_is_checked_for_the_given_time(model: Path) -> None:
    signer = ROOT.signer()
    data = Draft.of(model, signer.key, signer).data  # type: ignore[arg-type]
    policy = TrustPolicy.load(roots=[ROOT.pem])
    verify(data, digest(model), policy, at=NOW)
    with pytest.raises(SignatureRejected, match="valid from"):
        verify(data, digest(model), policy, at=NOW + timedelta(days=301))


def test_number_of_certificates_is_limited(model: Path) -> None:
    draft = Draft.of(model, KEY, *[ROOT] * (Limits().certificates + 1))
    with pytest.raises(SignatureRejected, match="1 to 8 certificates"):
        verified(model, draft.data)


def test_malformed_certificate_is_refused(model: Path) -> None:
    draft = Draft.of(model, KEY)
    draft.material = {"x509CertificateChain": {"certificates": [{"rawBytes": "AAAA"}]}}
    with pytest.raises(SignatureRejected, match="a certificate is malformed"):
        verified(model, draft.data)


@pytest.mark.parametrize(
    ("keys", "roots", "reason"),
    [
        ([b"no key"], [], "not a PEM file that begins with"),
        ([public_pem(rsa.generate_private_key(65537, 2048))], [], "not an ECDSA key"),
        ([public_pem(private_key(ec.SECP256K1()))], [], "not an ECDSA key"),
        ([], [b"no certificate"], "not a PEM file of certificates"),
    ],
    ids=["no-key", "rsa", "curve", "no-certificate"],
)
def test_policy_names_what_it_cannot_read(keys: list[bytes], roots: list[bytes], reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason):
        TrustPolicy.load(keys, roots)
