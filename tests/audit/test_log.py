"""Audit log service: acknowledged records are listed and proved, desks are isolated, and tampering is detected."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import httpx
import psycopg
import pytest

from drw.api.audit.v1.log_pb2 import (
    Checkpoint,
    GetCheckpointRequest,
    GetProofRequest,
    ListRecordsRequest,
    ListRecordsResponse,
    Proof,
    Verification,
    VerifyRequest,
)
from drw.api.audit.v1.log_rpc import LogClient
from drw.audit.offline import main, verify
from drw.audit.tlog.merkle import leaf_hash, verify_inclusion
from drw.audit.tlog.note import Signer, Verifier
from drw.kernel.errors import Forbidden, InvalidRequest, NotFound
from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.rpc.json_messages import json_value
from drw.kernel.runtime.host import Host
from drw.kernel.runtime.settings import ConfigError, Profile
from drw.kernel.storage.audit import AuditWriter, digest
from drw.kernel.storage.database import Database
from support.hosting import hosted
from support.json_types import Json
from support.telemetry.metrics import scrape

MODES = ["together", "strict", "apart"]

WriteRecords = Callable[..., Awaitable[None]]
"""Writes records: `await write_records(caller, count, action)`."""


@pytest.fixture
def profile(profile: Profile) -> Profile:
    # Without signing in the background, so that the test controls it.
    return profile.model_copy(update={"services": {"log": {"gather_seconds": 60}}})


@pytest.fixture
def tlog(profile: Profile) -> Path:
    return profile.data / "log" / "tlog"


@pytest.fixture
async def write_records(profile: Profile) -> AsyncIterator[WriteRecords]:
    """Returns a function that writes records for a caller, from outside the log's process."""
    database = Database(profile.postgres, "audit", pool_size=2)
    await database.start("drw.kernel.storage")
    writer = AuditWriter(database, "serving")

    async def write_records(caller: Principal | None, count: int, action: str = "model.chat", **options: Json) -> None:
        with acting_for(caller):
            for i in range(count):
                await writer.record(action, f"model/{i}", details={"prompt": digest(f"{i}")}, **options)

    yield write_records
    await database.stop()


def changed(caller: Principal, **changes: Json) -> Principal:
    return replace(caller, **changes)


async def listed(host: Host, caller: Principal, **filters: Json) -> ListRecordsResponse:
    with acting_for(caller):
        return await host.client(LogClient).list_records(ListRecordsRequest(**filters))


async def verified(host: Host, caller: Principal, earlier_note: str = "") -> Verification:
    with acting_for(caller):
        return await host.client(LogClient).verify(VerifyRequest(earlier_note=earlier_note))


async def checkpoint(host: Host, caller: Principal) -> Checkpoint:
    with acting_for(caller):
        return await host.client(LogClient).get_checkpoint(GetCheckpointRequest())


@pytest.mark.parametrize("how", MODES)
async def test_an_acknowledged_record_is_listed_signed_and_proved(
    profile: Profile, caller: Principal, how: str, write_records: WriteRecords
) -> None:
    async with hosted(profile, ["log"], how) as host:
        await write_records(caller, 3)
        records = (await listed(host, caller)).records
        assert [(r.index, r.action, r.resource, r.actor, r.service) for r in records] == [
            (i, "model.chat", f"model/{i}", "key_test", "serving") for i in (2, 1, 0)
        ]
        assert json_value(records[0].details)["prompt"] == digest("2")
        with acting_for(caller):
            proof = await host.client(LogClient).get_proof(GetProofRequest(index=1))
        assert leaf_hash(proof.entry.encode()).hex() == records[1].leaf_hash
        assert is_proved(proof)
        answer = await verified(host, caller, proof.checkpoint.note)
        assert (answer.ok, answer.records, answer.problem) == (True, 3, "")


def is_proved(proof: Proof) -> bool:
    signed = Verifier.parse(proof.checkpoint.verifier_key).open(proof.checkpoint.note)
    hashes = [base64.b64decode(h) for h in proof.hashes]
    return verify_inclusion(leaf_hash(proof.entry.encode()), proof.index, signed.size, hashes, signed.root)


async def test_records_of_a_log_with_two_levels_have_proofs(
    profile: Profile, caller: Principal, write_records: WriteRecords
) -> None:
    async with hosted(profile, ["log"]) as host:
        await asyncio.gather(*(write_records(caller, 10) for _ in range(60)))
        with acting_for(caller):
            for index in (0, 255, 256, 511, 512, 599):
                assert is_proved(await host.client(LogClient).get_proof(GetProofRequest(index=index)))
        assert (await verified(host, caller)).records == 600


async def test_records_are_signed_in_the_background(
    profile: Profile, caller: Principal, tlog: Path, write_records: WriteRecords
) -> None:
    services = {"log": {"gather_seconds": 0}}
    async with hosted(profile.model_copy(update={"services": services}), ["log"]):
        await write_records(caller, 2)
        async with asyncio.timeout(30):
            while verify(tlog).records < 2:
                await asyncio.sleep(0.02)


@pytest.mark.parametrize("how", MODES)
async def test_a_desk_sees_its_own_records_and_an_org_admin_those_of_the_org(
    profile: Profile, caller: Principal, how: str, write_records: WriteRecords
) -> None:
    admin = changed(caller, scopes=caller.scopes | {"org:admin"})
    trading, other_org = changed(caller, desk="trading"), changed(admin, org="globex")
    async with hosted(profile, ["log"], how) as host:
        for principal in (caller, trading, changed(other_org, desk="research"), None):
            await write_records(principal, 1)
        seen = {
            name: [(r.org, r.desk) for r in (await listed(host, principal)).records]
            for name, principal in {"own": caller, "admin": admin, "foreign": other_org}.items()
        }
        assert seen == {
            "own": [("acme", "research")],
            "admin": [("acme", "trading"), ("acme", "research")],
            "foreign": [("globex", "research")],
        }
        assert [r.desk for r in (await listed(host, admin, desk="trading")).records] == ["trading"]
        with pytest.raises(Forbidden, match="lacks the scope 'org:admin', which the desk 'trading' needs"):
            await listed(host, caller, desk="trading")
        for principal, index in [(caller, 1), (caller, 2), (caller, 3), (admin, 2), (caller, 4), (caller, -1)]:
            with acting_for(principal), pytest.raises(NotFound, match=f"no record {index} that this key may see"):
                await host.client(LogClient).get_proof(GetProofRequest(index=index))


async def test_lists_are_filtered_and_paged(profile: Profile, caller: Principal, write_records: WriteRecords) -> None:
    async with hosted(profile, ["log"]) as host:
        await write_records(caller, 5)
        await write_records(changed(caller, key="key_other"), 2, "key.create", outcome="Forbidden")
        first = await listed(host, caller, page_size=4)
        second = await listed(host, caller, page_size=4, page_token=first.next_page_token)
        assert [r.index for r in [*first.records, *second.records]] == [6, 5, 4, 3, 2, 1, 0]
        assert second.next_page_token == ""
        for filters, indexes in [
            ({"action": "key.create"}, [6, 5]),
            ({"actor": "key_test", "resource": "model/1"}, [1]),
            ({"outcome": "Forbidden", "actor": "key_test"}, []),
        ]:
            assert [r.index for r in (await listed(host, caller, **filters)).records] == indexes
        for wrong in ({"page_size": 501}, {"page_size": -1}, {"page_token": "x"}, {"page_token": "9" * 30}):
            with pytest.raises(InvalidRequest):
                await listed(host, caller, **wrong)
        with pytest.raises(InvalidRequest):
            await listed(host, caller, action="a\x00")


async def test_an_invalid_record_does_not_stop_the_log(
    profile: Profile, caller: Principal, write_records: WriteRecords
) -> None:
    async with hosted(profile, ["log"]) as host:
        lines = ["not JSON", "[]", '{"org": 5, "desk": "a\\u0000b", "at": "yesterday", "details": 3}', "x" * 65_535]
        with psycopg.connect(profile.postgres) as connection:
            connection.cursor().executemany("insert into audit.inbox (record) values (%s)", [(line,) for line in lines])
        await write_records(caller, 1)
        assert [r.index for r in (await listed(host, caller)).records] == [4]
        assert (await verified(host, caller)).ok


async def test_records_proofs_and_checkpoints_are_available_over_http(
    profile: Profile, caller: Principal, write_records: WriteRecords
) -> None:
    headers = {"x-drw-key": "key_1", "x-drw-org": "acme", "x-drw-desk": "research", "x-drw-scopes": "audit:read"}
    async with hosted(profile, ["log"]) as host:
        await write_records(caller, 1)
        transport = httpx.ASGITransport(app=host.app())
        async with httpx.AsyncClient(transport=transport, base_url="http://drw", headers=headers) as client:
            (record,) = (await client.get("/api/v1/audit/records?action=model.chat")).json()["records"]
            assert record["details"] == {"prompt": digest("0")}
            note = (await client.get("/api/v1/audit/checkpoint")).json()["note"]
            assert (await client.get("/api/v1/audit/records/0/proof")).json()["checkpoint"]["note"] == note
            answer = (await client.post("/api/v1/audit:verify", json={"earlier_note": note})).json()
            assert (answer["ok"], answer["records"]) == (True, 1)
            answer = await client.post("/api/v1/audit:verify", json={"earlier_note": "yesterday's"})
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")


# Tampering. The log has 300 records: one full tile and bundle, one partial of each, and a tile on level 1.


@pytest.fixture
async def full_log(profile: Profile, caller: Principal, write_records: WriteRecords) -> AsyncIterator[Host]:
    async with hosted(profile, ["log"]) as host:
        await asyncio.gather(*(write_records(caller, 30) for _ in range(10)))
        assert (await verified(host, caller)).records == 300
        yield host


def flip_bit(file: Path, at: int) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize(
    ("path", "at", "problem"),
    [
        ("tile/entries/000", 40, "record 0: its entry in tile/entries/000 has not the hash that tile/0/000 has"),
        ("tile/0/000", 32 * 7 + 3, "record 7: its entry in tile/entries/000 has not the hash that tile/0/000 has"),
        ("tile/0/001.p/44", 32 * 43, "record 299: its entry in tile/entries/001.p/44 has not the hash that"),
        ("tile/1/000.p/1", 5, "tile/1/000.p/1: its hash 0 does not follow from what is below it"),
        ("checkpoint", 20, "the checkpoint is not good"),
    ],
)
async def test_verification_names_a_changed_file(
    full_log: Host, caller: Principal, tlog: Path, path: str, at: int, problem: str
) -> None:
    flip_bit(tlog / path, at)
    answer = await verified(full_log, caller)
    assert not answer.ok
    assert answer.problem.startswith(problem)
    assert verify(tlog).problem == answer.problem


@pytest.mark.parametrize("path", ["tile/entries/000", "tile/0/001.p/44", "tile/1/000.p/1", "checkpoint"])
async def test_verification_names_a_missing_file(full_log: Host, caller: Principal, tlog: Path, path: str) -> None:
    (tlog / path).unlink()
    assert (await verified(full_log, caller)).problem == verify(tlog).problem
    assert verify(tlog).problem == f"{path if path != 'checkpoint' else 'the checkpoint'} is missing"


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("update log.record set actor = 'key_else' where index = 12", "record 12: its 'actor' in the database"),
        ("update log.record set entry = '{}' where index = 280", "record 280: its 'entry' in the database"),
        ("update log.record set at = now() where index = 0", "record 0: its 'at' in the database"),
        ("update log.record set leaf_hash = 'x' where index = 0", "record 0: its 'leaf_hash' in the database"),
        ("delete from log.record where index = 3", "record 3 is in the log, and not in the database"),
        ("delete from log.record where index = 299", "record 299 is in the log, and not in the database"),
        (
            "insert into log.record select 900, entry, leaf_hash, at, service, action, org, desk, actor, resource,"
            " outcome, trace_id from log.record where index = 0",
            "record 300 in the database was removed or changed before it was signed",
        ),
        (
            "insert into log.checkpoint (size, note) values (301, 'x')",
            "the folder's checkpoint is over 300 records; one over 301 was signed",
        ),
    ],
)
async def test_verification_names_a_changed_row(
    full_log: Host, caller: Principal, profile: Profile, tlog: Path, statement: str, problem: str
) -> None:
    with psycopg.connect(profile.postgres) as connection:
        connection.execute(statement)
    answer = await verified(full_log, caller)
    assert not answer.ok
    assert answer.problem.startswith(problem)
    assert verify(tlog).ok


async def test_a_log_rewritten_with_the_same_key_does_not_extend_the_earlier_one(
    full_log: Host, caller: Principal, profile: Profile, tlog: Path
) -> None:
    earlier = (await checkpoint(full_log, caller)).note
    signer = Signer.parse((profile.data / "log" / "signing.key").read_text())
    (tlog / "checkpoint").write_text(signer.sign(300, leaf_hash(b"another tree")))
    assert verify(tlog).problem == "the root over the 300 entries is not the one that the checkpoint signs"
    (tlog / "checkpoint").write_text(signer.sign(0, bytes.fromhex(digest(""))))
    assert verify(tlog).ok  # a shorter log is consistent
    for samples in (verify(tlog, earlier_note=earlier).problem, (await verified(full_log, caller, earlier)).problem):
        assert "had 300 before" in samples or "one over 300 was signed" in samples


async def test_verification_compares_the_log_with_an_earlier_checkpoint(
    full_log: Host, caller: Principal, profile: Profile, tlog: Path
) -> None:
    signer = Signer.parse((profile.data / "log" / "signing.key").read_text())
    other_signer = Signer.generate("drw.local/audit")
    for size in (0, 1, 256, 299, 300):
        wrong = signer.sign(size, leaf_hash(b"another tree"))
        problem = f"the first {size} records are not those of the earlier checkpoint"
        assert (await verified(full_log, caller, wrong)).problem == problem == verify(tlog, earlier_note=wrong).problem
    answer = await verified(full_log, caller, other_signer.sign(300, leaf_hash(b"")))
    assert answer.problem.startswith("the earlier checkpoint is not signed by the log's key")
    with pytest.raises(InvalidRequest, match="up to 16384 characters"):
        await verified(full_log, caller, "x" * 20_000)


async def test_nothing_is_signed_over_a_damaged_log(
    full_log: Host, caller: Principal, tlog: Path, write_records: WriteRecords
) -> None:
    before = (tlog / "checkpoint").read_bytes()
    flip_bit(tlog / "tile/0/001.p/44", 3)
    await write_records(caller, 1)
    answer = await verified(full_log, caller)
    assert answer.problem == "the tiles of the 300 records are not those that the checkpoint signs"
    assert (tlog / "checkpoint").read_bytes() == before
    assert (await listed(full_log, caller)).records[0].index == 300  # records are still listed
    (status,) = (await full_log.status()).services
    assert status.detail == answer.problem


# Restart.


async def test_a_restart_continues_with_the_same_key_and_log(
    profile: Profile, caller: Principal, tlog: Path, write_records: WriteRecords
) -> None:
    async with hosted(profile, ["log"]) as host:
        await write_records(caller, 2)
        first = await checkpoint(host, caller)
    assert (profile.data / "log" / "signing.key").stat().st_mode & 0o777 == 0o600
    async with hosted(profile, ["log"]) as host:
        await write_records(caller, 2)
        assert (await verified(host, caller, first.note)).records == 4
        assert (await checkpoint(host, caller)).verifier_key == first.verifier_key == str(verifier_of(tlog))


def verifier_of(tlog: Path) -> Verifier:
    return Verifier.parse((tlog / "verifier.key").read_text())


async def test_a_missing_signing_key_is_not_created_again(profile: Profile, caller: Principal) -> None:
    async with hosted(profile, ["log"]):
        pass
    (profile.data / "log" / "signing.key").unlink()
    with pytest.raises(ConfigError, match="is missing: restore it from a backup"):
        async with hosted(profile, ["log"]):
            pass


async def test_the_name_of_a_log_cannot_change(profile: Profile) -> None:
    async with hosted(profile, ["log"]):
        pass
    renamed = profile.model_copy(update={"services": {"log": {"origin": "another.name"}}})
    with pytest.raises(ConfigError, match="log.origin is 'another.name': it cannot change"):
        async with hosted(renamed, ["log"]):
            pass


async def test_the_folder_can_be_verified_offline(
    profile: Profile,
    caller: Principal,
    tlog: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    write_records: WriteRecords,
) -> None:
    async with hosted(profile, ["log"]) as host:
        await write_records(caller, 2)
        saved = await checkpoint(host, caller)
    earlier = tmp_path / "kept"
    earlier.write_text(saved.note)
    assert main([str(tlog), "--key", saved.verifier_key, "--earlier", str(earlier)]) == 0
    assert "2 records, all unchanged" in capsys.readouterr().out
    assert main([str(tlog), "--key", str(Signer.generate("drw.local/audit").verifier)]) == 1
    assert "problem: the checkpoint is not good: the note is not signed by the key" in capsys.readouterr().out
    assert main([str(tmp_path)]) == 2
    assert "is it the folder of an audit log?" in capsys.readouterr().err


async def test_metrics_show_the_backlog_of_signing(
    profile: Profile, caller: Principal, write_records: WriteRecords
) -> None:
    async with hosted(profile, ["log"]) as host:
        await host.client(LogClient).get_checkpoint(GetCheckpointRequest())
        await write_records(caller, 3)
        before = await scrape(host)
        assert before["drw_audit_unsigned_records"] == 3
        assert 0 < before["drw_audit_oldest_unsigned_seconds"] < 60
        await checkpoint(host, caller)
        after = await scrape(host)
        assert (after["drw_audit_unsigned_records"], after["drw_audit_oldest_unsigned_seconds"]) == (0, 0)
        assert (after["drw_audit_damaged"], after['drw_service_ready{service="log"}']) == (0, 1)


async def test_metrics_show_damage(full_log: Host, tlog: Path) -> None:
    flip_bit(tlog / "checkpoint", 20)
    samples = await scrape(full_log)
    assert (samples["drw_audit_damaged"], samples['drw_service_ready{service="log"}']) == (1, 0)


async def test_records_inside_a_wall_are_visible_inside_and_verifiable_by_all(
    profile: Profile, caller: Principal, write_records: WriteRecords
) -> None:
    inside_walls = replace(caller, key="key_inside", walls=frozenset({"m-and-a", "credit"}))
    inside_one_wall = replace(caller, scopes=caller.scopes | {"org:admin"}, walls=frozenset({"credit"}))
    await write_records(caller, 2)
    await write_records(inside_walls, 3)
    async with hosted(profile, ["log"], "strict") as host:
        log = host.client(LogClient)
        for principal, visible in ((caller, [1, 0]), (inside_one_wall, [1, 0]), (inside_walls, [4, 3, 2, 1, 0])):
            with acting_for(principal):
                listed = await log.list_records(ListRecordsRequest())
                assert ([r.index for r in listed.records], listed.next_page_token) == (visible, "")
                filtered = await log.list_records(ListRecordsRequest(actor="key_inside"))
                assert {tuple(r.walls) for r in filtered.records} == (
                    {("credit", "m-and-a")} if 4 in visible else set()
                )
                for index in range(5):
                    if index in visible:
                        assert (await log.get_proof(GetProofRequest(index=index))).index == index
                    else:
                        with pytest.raises(NotFound, match=f"no record {index} that this key may see"):
                            await log.get_proof(GetProofRequest(index=index))
                verified = await log.verify(VerifyRequest())
                assert (verified.ok, verified.records) == (True, 5)
        with psycopg.connect(profile.postgres) as connection:  # verification detects removed walls
            connection.execute("update log.record set walls = '{}' where index = 4")
        with acting_for(caller):
            assert "'walls' in the database" in (await log.verify(VerifyRequest())).problem
        for mutation in ("select object_walls && caller_walls or object_walls = '{}'", "select true"):
            with psycopg.connect(profile.postgres) as connection:
                connection.execute(
                    "create or replace function log.inside(object_walls text[], caller_walls text[]) returns boolean"
                    f" language sql immutable parallel safe as $$ {mutation} $$"
                )
            with acting_for(inside_one_wall):  # the same question shows more: the test would see it
                assert len((await log.list_records(ListRecordsRequest())).records) > 3
