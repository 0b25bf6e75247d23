-- A trigger, with the key that its runs act for.
create table run_trigger (
    id text primary key,
    org text not null,
    desk text not null,
    key text not null,
    scopes text[] not null,
    walls text[] not null,
    name text not null,
    fingerprint text not null,
    -- A TriggerSpec.
    spec bytea not null,
    -- The name of its type of events, and the collection of its documents.
    event text not null,
    collection text not null,
    state text not null default 'ACTIVE' check (state in ('ACTIVE', 'PAUSED', 'STOPPED')),
    detail text not null default '',
    -- Events that wait for their runs, and when the next one can start.
    waiting integer not null default 0,
    due_at timestamptz not null default clock_timestamp(),
    created_at timestamptz not null default clock_timestamp(),
    unique (org, desk, walls, name)
);
create index trigger_of_event on run_trigger (event, org, desk) where state = 'ACTIVE';
create index trigger_due on run_trigger (due_at) where state = 'ACTIVE' and waiting > 0;

create function visible_triggers(of_org text, of_desk text, caller_walls text[]) returns setof run_trigger
language sql stable as $$
    select t.* from run_trigger t where t.org = of_org and t.desk = of_desk and inside(t.walls, caller_walls)
$$;

-- The events that matched a trigger: all that wait, and the latest others.
create table trigger_firing (
    trigger text not null references run_trigger on delete cascade,
    event text not null,
    number bigint generated always as identity,
    subject text not null,
    -- The variable of expressions.
    variables json not null,
    -- How many runs that an event started led to the event, one by another.
    depth integer not null,
    state text not null default 'PENDING' check (state in ('PENDING', 'STARTED', 'REFUSED', 'DROPPED')),
    run text not null default '',
    detail text not null default '',
    at timestamptz not null default clock_timestamp(),
    primary key (trigger, event)
);
create index trigger_firing_waiting on trigger_firing (trigger, number) where state = 'PENDING';
create index trigger_firing_newest on trigger_firing (trigger, number);

alter table run add column trigger text not null default '';
alter table run add column event text not null default '';
alter table run add column event_depth integer not null default 0;
create index run_of_trigger on run (trigger, created_at) where trigger <> '';
