-- A schedule, with the key that its runs act for.
create table schedule (
    id text primary key,
    org text not null,
    desk text not null,
    key text not null,
    scopes text[] not null,
    walls text[] not null,
    name text not null,
    fingerprint text not null,
    -- A ScheduleSpec.
    spec bytea not null,
    state text not null default 'ACTIVE' check (state in ('ACTIVE', 'PAUSED', 'STOPPED')),
    detail text not null default '',
    -- The next occurrence. Nothing starts it once `next_key` has changed.
    next_key text,
    next_at timestamptz,
    session date,
    -- Occurrences up to here are handled.
    handled_at timestamptz not null,
    -- When the scheduler handles the next one: with jitter, and later while it cannot start.
    due_at timestamptz,
    -- An occurrence that waits for the end of the open run.
    waiting_key text,
    waiting_at timestamptz,
    waiting_session date,
    -- The calendar, and the version of calendars and overrides with which `next_key` was computed.
    calendar text not null,
    timetable text not null,
    ticks integer not null default 0,
    created_at timestamptz not null default clock_timestamp(),
    unique (org, desk, walls, name)
);
create index schedule_due on schedule (due_at) where state = 'ACTIVE';
create index schedule_waiting on schedule (id) where waiting_key is not null;

create function visible_schedules(of_org text, of_desk text, caller_walls text[]) returns setof schedule
language sql stable as $$
    select s.* from schedule s where s.org = of_org and s.desk = of_desk and inside(s.walls, caller_walls)
$$;

-- The latest occurrences of a schedule, and what became of them.
create table schedule_tick (
    schedule text not null references schedule on delete cascade,
    number integer not null,
    at timestamptz not null,
    outcome text not null,
    run text not null default '',
    detail text not null default '',
    primary key (schedule, number)
);

create table backfill (
    id text primary key,
    schedule text not null references schedule on delete cascade,
    created_by text not null,
    from_at timestamptz not null,
    to_at timestamptz not null,
    max_concurrent integer not null,
    -- Of each occurrence: key, time and session.
    occurrences jsonb not null,
    position integer not null default 0,
    existing integer not null default 0,
    state text not null default 'RUNNING' check (state in ('RUNNING', 'DONE', 'STOPPED')),
    detail text not null default '',
    due_at timestamptz not null,
    created_at timestamptz not null default clock_timestamp()
);
create unique index backfill_running on backfill (schedule) where state = 'RUNNING';
create index backfill_newest on backfill (schedule, created_at desc);

alter table run add column schedule text not null default '';
alter table run add column backfill text not null default '';
alter table run add column scheduled_for timestamptz;
create index run_of_schedule on run (schedule, backfill)
    where schedule <> '' and state in ('QUEUED', 'RUNNING');
