"""SQL of the run journal: the statements that change a run or a step together with its event and audit record."""

from __future__ import annotations

ACQUIRE = """
update run set fence = fence + 1, state = 'RUNNING', executor = %(executor)s,
    interruptions = case when fence = 0 then 0 when paused_at is not null then interruptions
                    when waiting and not active then greatest(0, interruptions)
                    else interruptions + 1 end
from (
    select coalesce(bool_or(decision ->> 'until' is not null), false) as waiting,
           coalesce(bool_or(decision is null and decision_payload is null), false) as active
    from step where run = %(run)s and state in ('RUNNING', 'RETRYING')
) as steps
where id = %(run)s and state in ('QUEUED', 'RUNNING')
returning run.*
"""
"""An interruption counts unless the run only waits for a time, an approval or another run, which ends no process."""

_EVENT = """
published as (
    insert into outbox (run, number, step, state, detail)
    select id, events, %(step)s, %(event)s, %(detail)s from numbered returning number
),
recorded as (insert into audit.inbox (record) select %(record)b from numbered)
select pg_notify(%(channel)s, '') from published
"""
"""The event of a step and its audit record, in the statement that changes the step."""
_LOCKED = """
with locked as (
    select id, events from run
    where id = %(run)s and fence = %(fence)s and state in ('QUEUED', 'RUNNING') for update
),
"""
BEGIN_STEP = f"""{_LOCKED}
began as (
    insert into step (run, id, position, attempts, state, decision, decision_payload, arguments, started_at)
    select id, %(step)s, 100000 + events, 1, 'RUNNING', %(decision)s::json, %(payload)s::jsonb, %(arguments)s,
           clock_timestamp()
    from locked where not run_is_paused(id)
    on conflict (run, id) do update
    set attempts = 1, state = 'RUNNING', decision = excluded.decision, decision_payload = excluded.decision_payload,
        arguments = excluded.arguments, started_at = excluded.started_at
    where step.state = 'QUEUED' and (step.attempts = 0 or excluded.decision is not null
                                     or excluded.decision_payload is not null)
    returning run
),
numbered as (update run set events = run.events + 1 from began where run.id = began.run returning run.id, run.events),
{_EVENT}"""  # noqa: S608 - of constants
"""The first attempt at a step, in one round trip. It changes nothing and returns no row in any other case, also while
the run is paused."""
END_STEP = f"""{_LOCKED}
ended as (
    update step set state = %(state)s, error = %(error)s, failure_class = %(class)s, reason = %(reason)s,
                    output = %(output)s::json, output_payload = %(payload)s::jsonb, ended_at = clock_timestamp()
    from locked where step.run = locked.id and step.id = %(step)s and step.ended_at is null returning step.run
),
numbered as (
    update run set events = run.events + 1, interruptions = 0 from ended where run.id = ended.run
    returning run.id, run.events
),
{_EVENT}"""  # noqa: S608 - of constants
"""The end of a step, in one round trip. It returns no row if this process no longer owns the run, or the step ended."""
