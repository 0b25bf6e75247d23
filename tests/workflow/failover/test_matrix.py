"""The failover matrix: one of two executors fails while runs stand at each boundary and in the middle of each node.

All cells run at once, in one database, and the executor that runs them fails once.
"""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from drw.api.workflow.v1.orchestration_pb2 import DecideApprovalRequest, StartRunRequest, Vote
from drw.api.workflow.v1.orchestration_rpc import OrchestrationClient
from drw.api.workflow.v1.templates_pb2 import PutTemplateRequest
from drw.api.workflow.v1.templates_rpc import TemplatesClient
from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.rpc.json_messages import json_message
from drw.kernel.runtime.settings import Profile
from workflow.doubles import until
from workflow.failover.cells import CELL, KINDS, Cell, all_cells, python_calls
from workflow.failover.executors import DatabaseProxy, Executor, Executors, executors

GATES = """
create schema gate;
create table gate.gate (token text, step text, state text, number int);
create function gate.stop() returns trigger language plpgsql as $$
declare found_number int;
begin
    select gate.number into found_number from gate.gate join orchestration.run on run.inputs ->> 'token' = gate.token
    where run.id = new.run and gate.step = new.id and gate.state = new.state and old.state is distinct from new.state;
    if found then
        perform nextval('gate.reached_' || found_number);
        raise exception 'stopped at a gate' using errcode = 'admin_shutdown';
    end if;
    return new;
end $$;
create trigger gate before insert or update on orchestration.step for each row execute function gate.stop();
"""


@dataclass
class Matrix:
    """The cells, and the executors that run them."""

    executors: Executors
    caller: Principal
    folder: Path
    database: psycopg.AsyncConnection[Any]
    cells: list[Cell] = field(default_factory=all_cells)

    async def fetch(self, query: str, *args: object) -> list[Any]:
        return await (await self.database.execute(query.encode(), args)).fetchall()

    async def start(self, executor: Executor) -> None:
        """Start the runs of all cells, and wait until each one stands at its point."""
        await self.database.execute(GATES)
        for cell in self.cells:
            if cell.step:
                await self.database.execute(f"create sequence gate.reached_{cell.number}".encode())
                gate = (cell.token, cell.step, cell.state, cell.number)
                await self.database.execute("insert into gate.gate values (%s, %s, %s, %s)", gate)
            elif cell.kind == "python":
                (self.folder / f"{cell.token}.gate").touch()
            elif cell.call:
                self.executors.doubles.calls.block(cell.call.replace("T", cell.token))
        with acting_for(self.caller):
            client = self.executors.channels.client(TemplatesClient, executor.address)
            for name, kind in KINDS.items():
                source = CELL.format(name=f"cell_{name}", node=kind.node)
                await client.put_template(PutTemplateRequest(name=f"cell_{name}", source=source))
        for cell in self.cells:
            request = StartRunRequest(template=f"cell_{cell.kind}", request_id=cell.token)
            seconds = 0 if cell.step else 3600
            request.inputs.CopyFrom(json_message({"token": cell.token, "folder": str(self.folder), "seconds": seconds}))
            with acting_for(self.caller):
                client_of_runs = self.executors.channels.client(OrchestrationClient, executor.address)
                cell.run = (await client_of_runs.start_run(request)).id

        async def all_stand() -> bool:
            await self._approve(executor)
            return not await self._moving()

        await until(all_stand, "the points of all cells")
        # The executor waits for the time that it has read. The one that takes over reads that the wait has ended.
        await self.database.execute(
            "update orchestration.step set decision = json_build_object('until', now()) where run = any(%s)"
            " and id = 'node'",
            ([cell.run for cell in self.cells if cell.kind == "wait" and not cell.step],),
        )

    async def _moving(self) -> list[str]:
        """Return the cells that do not stand at their point yet."""
        query = "select sequencename from pg_sequences where schemaname = 'gate' and last_value is not null"
        reached = {row[0] for row in await self.fetch(query)}
        waiting = {row[0] for row in await self.fetch("select run from orchestration.step where id = 'node'"
                                                      " and state = 'RUNNING'")}  # fmt: skip
        calls = self.calls()
        return [
            cell.name
            for cell in self.cells
            if not (
                f"reached_{cell.number}" in reached
                if cell.step
                else calls[cell.call.replace("T", cell.token)]
                if cell.call
                else cell.run in waiting
            )
        ]

    async def _approve(self, executor: Executor, *, all_runs: bool = False) -> None:
        """Approve what waits for it, except where the wait is the point of the cell."""
        held = {cell.run for cell in self.cells if cell.kind == "approval" and not cell.step}
        for run, step in await self.fetch("select run, step from orchestration.approval where state = 'PENDING'"):
            if all_runs or run not in held:
                request = DecideApprovalRequest(run=run, step=step, decision=Vote.APPROVE)
                with acting_for(replace(self.caller, key="key_other")):
                    await self.executors.channels.client(OrchestrationClient, executor.address).decide_approval(request)

    async def open_gates(self) -> None:
        """Let all runs continue. Calls that have not been answered stay so."""
        await self.database.execute("delete from gate.gate")
        calls = self.executors.doubles.calls
        self._unanswered = dict(calls.gates)
        calls.gates.clear()
        for path in self.folder.glob("*.gate"):
            path.unlink()

    def answer_calls(self) -> None:
        """Answer the calls of the executor that has failed."""
        for event in self._unanswered.values():
            event.set()

    async def wait_until_ended(self, executor: Executor) -> None:
        """Wait until the executor has finished all runs."""

        async def have_ended() -> bool:
            await self._approve(executor, all_runs=True)
            return not await self.fetch("select from orchestration.run where state in ('QUEUED', 'RUNNING')")

        await until(have_ended, "the end of all runs")

    def calls(self) -> Counter[str]:
        """Return how often each call has happened. Files are stored under the idempotency key of the step."""
        names = Counter(self.executors.doubles.calls.names)
        written: Counter[str] = Counter()
        for name, count in names.items():
            method, _, subject = name.partition(" ")
            written[f"put {subject.partition('-')[0]}" if method == "put" else name] += count
        return written + python_calls(self.folder)

    async def check(self) -> None:
        """Check that every run succeeded, that nothing but steps in flight was repeated, and each once at most."""
        runs = {run: (state, error) for run, state, error in await self.fetch(
            "select id, state, error from orchestration.run")}  # fmt: skip
        attempts = {(run, step): count for run, step, count in await self.fetch(
            "select run, id, attempts from orchestration.step")}  # fmt: skip
        calls = self.calls()
        for cell in self.cells:
            assert runs[cell.run] == ("SUCCEEDED", ""), cell.name
            in_flight = cell.in_flight()
            for call, expected in cell.expected().items():
                allowed = {expected, expected + 1} if call in in_flight else {expected}
                assert calls[call] in allowed, f"{cell.name}: {calls[call]} times {call!r}"
            assert attempts[cell.run, "before"] == attempts[cell.run, "after"] == 1, cell.name
        assert len(self.executors.doubles.documents.put) == sum(cell.kind == "write" for cell in self.cells)
        for path in self.folder.glob("*.log"):
            assert len(set(path.read_text().splitlines())) == 1, "the idempotency key of a step never changes"
        ends = await self.fetch(
            "select record::json ->> 'resource', count(*) from audit.inbox"
            " where record::json ->> 'action' in ('run.end', 'step.end') group by 1"
        )
        assert {count for _, count in ends} == {1} and len(ends) == len(runs) + len(attempts)


@pytest.fixture
async def matrix(profile: Profile, folder: Path, caller: Principal, tmp_path: Path) -> AsyncIterator[Matrix]:
    database = await psycopg.AsyncConnection.connect(profile.postgres, autocommit=True)
    async with database, executors(profile, folder) as started:
        yield Matrix(started, caller, tmp_path, database)


async def test_a_killed_executor(matrix: Matrix) -> None:
    first = await matrix.executors.start("one")
    await matrix.start(first)
    second = await matrix.executors.start("two")
    first.kill()
    await matrix.open_gates()
    matrix.answer_calls()
    await matrix.wait_until_ended(second)
    await matrix.check()


async def test_a_frozen_executor_does_nothing_when_it_wakes(matrix: Matrix) -> None:
    first = await matrix.executors.start("one")
    await matrix.start(first)
    second = await matrix.executors.start("two")
    first.send_signal(signal.SIGSTOP)
    await matrix.open_gates()
    await matrix.wait_until_ended(second)
    calls = matrix.calls()
    matrix.answer_calls()  # the answers wait for the frozen process
    first.send_signal(signal.SIGCONT)
    await until(first.is_idle_leader, "a new leadership of the woken executor")
    assert matrix.calls() == calls
    await matrix.check()


async def test_an_executor_without_its_database(matrix: Matrix, folder: Path) -> None:
    async with DatabaseProxy(matrix.executors.profile.postgres, folder / "proxy").running() as proxy:
        first = await matrix.executors.start("one", proxy.dsn)
        await matrix.start(first)
        second = await matrix.executors.start("two")
        proxy.cut()
        await matrix.open_gates()
        await matrix.wait_until_ended(second)
        calls = matrix.calls()
        matrix.answer_calls()
        proxy.restore()
        await until(first.is_idle_leader, "a new leadership of the executor")
        assert matrix.calls() == calls
        await matrix.check()
