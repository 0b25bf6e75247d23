"""Changes of state of services and replicas in PostgreSQL, bounded in number and age."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from drw.api.kernel.v1.kernel_pb2 import ServiceStatus
from drw.api.models.v1.health_pb2 import ListTransitionsRequest, Transition
from drw.kernel import paging
from drw.kernel.storage.database import Connection, Database
from drw.models.health.settings import HistorySettings

MODEL = "model/"
"""Subjects of replicas are `model/ID/REPLICA`."""
MAX_DETAIL = 500
PAGE = """
select * from transition
where number < %s and (%s = '' or subject = %s or starts_with(subject, %s || '/'))
    and (%s::timestamptz is null or at >= %s) and (%s::timestamptz is null or at < %s)
    and (%s::text[] is null or not starts_with(subject, 'model/')
        or regexp_replace(subject, '^model/(.*)/[^/]*$', '\\1') = any(%s))
order by number desc limit %s
"""
TRIM = """
delete from transition where subject = %s and number <= (
    select number from transition where subject = %s order by number desc offset %s limit 1
)
"""


class History:
    """Stores changes of state, and keeps those before a restart."""

    def __init__(self, database: Database, settings: HistorySettings) -> None:
        self._database = database
        self._settings = settings
        self._known: dict[str, int] = {}
        """States that are stored already. Another health service may store a newer one."""

    async def record(self, subject: str, state: ServiceStatus.State, detail: str) -> None:
        """Store a state if it differs from the last one of the subject.

        Raises:
            Unavailable: the database does not answer. The next call stores the state of that time.
        """
        if self._known.get(subject) == state:
            return
        async with self._database.transaction() as connection:
            await connection.execute("insert into state values (%s, 0) on conflict do nothing", (subject,))
            cursor = await connection.execute("select state from state where subject = %s for update", (subject,))
            row = await cursor.fetchone()
            before = row["state"] if row else ServiceStatus.STATE_UNSPECIFIED
            if before != state:
                await connection.execute("update state set state = %s where subject = %s", (state, subject))
                await self._add(connection, subject, before, state, detail[:MAX_DETAIL])
        self._known[subject] = state

    def forget(self, subjects: set[str]) -> None:
        """Forget the states of subjects that no longer exist; their history stays."""
        self._known = {subject: state for subject, state in self._known.items() if subject not in subjects}

    async def page(
        self, request: ListTransitionsRequest, size: int, models: Collection[str] | None
    ) -> tuple[list[Transition], str]:
        """Return the transitions of a page, newest first, and the token of the next page.

        `models`: only the replicas of these models, without their names and details, which the request cannot name
        either; None: all.
        """
        replicas, listed = models is None, None if models is None else sorted(models)
        since, until = (_time(request, name) for name in ("from", "to"))
        service = request.service
        exact = service if replicas or not service.startswith(MODEL) else ""
        number = paging.number_of(request.page_token)
        rows = await self._database.all(
            PAGE, number, service, exact, service, since, since, until, until, listed, listed, size + 1
        )
        token = str(rows[size - 1]["number"]) if len(rows) > size else ""
        transitions = [_transition(row) for row in rows[:size]]
        for transition in () if replicas else transitions:
            transition.detail = ""  # can contain issuers, routes and desks of other tenants
            if transition.service.startswith(MODEL):
                transition.service = transition.service.rpartition("/")[0]
        return transitions, token

    async def purge(self) -> None:
        """Delete expired transitions."""
        await self._database.all(
            "delete from transition where at < now() - make_interval(days => %s) returning number",
            self._settings.transition_days,
        )

    async def _add(self, connection: Connection, subject: str, before: int, state: int, detail: str) -> None:
        """Add a transition, or count it in the last one if there were too many in an hour."""
        cursor = await connection.execute(
            "select count(*) as n, max(number) as last from transition"
            " where subject = %s and at > now() - interval '1 hour'",
            (subject,),
        )
        recent = await cursor.fetchone()
        if recent and recent["n"] >= self._settings.max_transitions_per_hour:
            await connection.execute(
                "update transition set to_state = %s, detail = %s, more = more + 1 where number = %s",
                (state, detail, recent["last"]),
            )
            return
        await connection.execute(
            "insert into transition (subject, from_state, to_state, detail) values (%s, %s, %s, %s)",
            (subject, before, state, detail),
        )
        await connection.execute(TRIM, (subject, subject, self._settings.max_transitions))


def _time(request: ListTransitionsRequest, name: str) -> Any:
    return getattr(request, name).ToDatetime().isoformat() + "Z" if request.HasField(name) else None


def _transition(row: dict[str, Any]) -> Transition:
    states = {"from": row["from_state"], "to": row["to_state"]}  # `from` is a keyword of Python
    transition = Transition(service=row["subject"], detail=row["detail"], more=row["more"], **states)
    transition.at.FromDatetime(row["at"])
    return transition
