"""Sequencing: no record is lost or duplicated by concurrent writers, cancellations and crashes."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import psycopg
import pytest

from drw.audit.log.folder import Folder
from drw.audit.log.sequencer import Sequencer
from drw.audit.log.store import Store
from drw.audit.tlog.file_verification import FileVerification
from drw.audit.tlog.note import Signer
from drw.kernel.storage.audit import INSERT
from drw.kernel.storage.database import Connection, Database

SIGNER = Signer.generate("drw.test/audit")


class Crash(Exception):
    """The process ends."""


class CrashingFolder(Folder):
    """A folder whose process ends before or after its n-th write."""

    def __init__(self, path: Path, steps: int) -> None:
        super().__init__(path)
        self._steps = steps

    def replace(self, path: str, data: bytes) -> None:
        self._step()
        super().replace(path, data)
        self._step()

    def remove_partial(self, full_path: str) -> None:
        self._step()
        super().remove_partial(full_path)

    def _step(self) -> None:
        self._steps -= 1
        if self._steps < 0:
            raise Crash


class CrashingStore(Store):
    """A store whose process ends before its n-th commit."""

    def __init__(self, database: Database, steps: int) -> None:
        super().__init__(database)
        self._steps = steps

    async def add_checkpoint(self, connection: Connection, size: int, note: str) -> None:
        await super().add_checkpoint(connection, size, note)
        self._steps -= 1
        if self._steps < 0:
            raise Crash


@pytest.fixture
async def database(database: str) -> AsyncIterator[Database]:
    audit, log_database = Database(database, "audit", pool_size=8), Database(database, "log", pool_size=8)
    await audit.start("drw.kernel.storage")
    await log_database.start("drw.audit.log")
    yield log_database
    await log_database.stop()
    await audit.stop()


@pytest.fixture
async def store(database: Database) -> Store:
    return Store(database)


async def insert(database: Database, *names: str) -> None:
    async with database.transaction() as connection:
        await connection.execute(INSERT, ([orjson.dumps({"resource": name}).decode() for name in names],))


def logged(folder: Folder) -> list[str]:
    """Verify the log, and return the names of its records."""
    verification = FileVerification(folder.read, SIGNER.verifier)
    return [orjson.loads(e)["resource"] for bundle in verification.bundles() for e in bundle.entries]


async def test_concurrent_writers_and_late_commits_lose_and_duplicate_nothing(
    database: Database, store: Store, tmp_path: Path
) -> None:
    folders = [Folder(tmp_path), Folder(tmp_path)]
    sequencers = [Sequencer(Store(database), folder, SIGNER) for folder in folders]
    await sequencers[0].begin()
    async with database.transaction() as slow_transaction:  # has the smallest id, and commits last
        await slow_transaction.execute(INSERT, (['{"resource": "late"}'],))
        writing = [asyncio.create_task(insert(database, f"a{i}", f"b{i}")) for i in range(150)]
        while not all(task.done() for task in writing):
            await asyncio.gather(*(s.sign() for s in sequencers))
        await sequencers[1].sign()
        assert "late" not in logged(folders[0])
    _, checkpoint = await sequencers[0].sign()
    names = logged(folders[0])
    assert names[-1] == "late"
    assert sorted(names) == sorted(["late", *(f"{x}{i}" for i in range(150) for x in "ab")])
    assert checkpoint.size == 301


async def test_a_record_that_is_rolled_back_is_never_logged(database: Database, store: Store, tmp_path: Path) -> None:
    sequencer = Sequencer(store, Folder(tmp_path), SIGNER)
    await sequencer.begin()
    with pytest.raises(Crash):
        async with database.transaction() as connection:
            await connection.execute(INSERT, (['{"resource": "never"}'],))
            raise Crash
    await insert(database, "kept")
    await sequencer.sign()
    assert logged(Folder(tmp_path)) == ["kept"]


async def test_a_crash_at_any_write_does_not_fork_the_log(database: Database, store: Store, tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    await Sequencer(store, folder, SIGNER).begin()
    names: list[str] = []
    checkpoints: list[str] = []
    for steps in itertools.count():
        # 300 at a time: bundles and tiles fill up on the way.
        batch = [f"{steps}.{i}" for i in range(300)]
        names += batch
        await insert(database, *batch)
        try:
            await Sequencer(store, CrashingFolder(tmp_path, steps), SIGNER).sign()
        except Crash:
            signed = folder.read("checkpoint")
            assert signed is not None
            note = signed.decode()
            FileVerification(folder.read, SIGNER.verifier)
            checkpoints.append(note)
            await insert(database, f"after {steps}")
            names.append(f"after {steps}")
            await Sequencer(store, folder, SIGNER).sign()
            assert logged(folder) == names
        else:
            break
    assert len(checkpoints) >= 10
    for note in checkpoints:  # the log extends every checkpoint that was published in between
        assert sum(len(b.entries) for b in FileVerification(folder.read, SIGNER.verifier, note).bundles()) == len(names)


async def test_after_a_crash_before_the_commit_the_checkpoint_is_valid(
    database: Database, store: Store, tmp_path: Path
) -> None:
    folder = Folder(tmp_path)
    await Sequencer(store, folder, SIGNER).begin()
    await insert(database, "a", "b")
    with pytest.raises(Crash):
        await Sequencer(CrashingStore(database, 0), folder, SIGNER).sign()
    assert logged(folder) == ["a", "b"]
    assert (await store.state()).signed == 0
    await insert(database, "c")
    _, checkpoint = await Sequencer(store, folder, SIGNER).sign()
    assert (logged(folder), checkpoint.size, (await store.state()).signed) == (["a", "b", "c"], 3, 3)


async def test_after_a_crash_at_the_first_start_the_log_starts_again(
    database: Database, store: Store, tmp_path: Path
) -> None:
    with pytest.raises(Crash):
        await Sequencer(CrashingStore(database, 0), Folder(tmp_path), SIGNER).begin()
    sequencer = Sequencer(store, Folder(tmp_path), SIGNER)
    await sequencer.begin()
    _, checkpoint = await sequencer.sign()
    assert checkpoint.size == 0


async def test_a_cancelled_request_leaves_the_log_intact(database: Database, store: Store, tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    sequencer = Sequencer(store, folder, SIGNER)
    await sequencer.begin()
    for i in range(20):
        await insert(database, f"a{i}", f"b{i}")
        signing = asyncio.create_task(sequencer.sign())
        for _ in range(i * 3):  # cancel at another point each time
            await asyncio.sleep(0)
        signing.cancel()
        await asyncio.gather(signing, return_exceptions=True)
    await sequencer.sign()
    assert logged(folder) == [f"{x}{i}" for i in range(20) for x in "ab"]


async def test_full_files_replace_partial_files(database: Database, store: Store, tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    sequencer = Sequencer(store, folder, SIGNER)
    await sequencer.begin()
    for part in (100, 100, 100):
        await insert(database, *(str(i) for i in range(part)))
        await sequencer.sign()
    files = {str(f.relative_to(tmp_path)) for f in tmp_path.rglob("*") if f.is_file() and not f.name.startswith(".")}
    assert files == {
        "checkpoint",
        "tile/entries/000",
        "tile/entries/001.p/44",
        "tile/0/000",
        "tile/0/001.p/44",
        "tile/1/000.p/1",
    }


async def test_a_database_from_an_older_backup_is_not_signed_over(
    database: Database, store: Store, tmp_path: Path
) -> None:
    folder = Folder(tmp_path)
    sequencer = Sequencer(store, folder, SIGNER)
    await sequencer.begin()
    await insert(database, "a", "b")
    await sequencer.sign()
    async with database.transaction() as connection:
        await connection.execute("delete from record where index = 1")
        await connection.execute("delete from checkpoint where size = 2")
    await insert(database, "another b")
    for more in ("c", "d"):
        with pytest.raises(Exception, match="in the database is not the one that was signed"):
            await sequencer.sign()
        await insert(database, more)
    assert logged(folder) == ["a", "b"]


async def test_an_entry_too_large_for_a_bundle_is_rejected_by_the_inbox(database: Database) -> None:
    async with database.transaction() as connection:
        with pytest.raises(psycopg.errors.CheckViolation):
            await connection.execute(INSERT, (["x" * 65_536],))
