-- A run, with the template it was started from and the key it acts for.
create table run (
    id text primary key,
    org text not null,
    desk text not null,
    key text not null,
    scopes text[] not null,
    request_id text not null,
    fingerprint text not null,
    template bytea not null,
    template_name text not null,
    template_version text not null,
    inputs json not null,
    trace text not null,
    state text not null default 'QUEUED'
        check (state in ('QUEUED', 'RUNNING', 'SUCCEEDED', 'FAILED', 'CANCELLED')),
    output json,
    error text not null default '',
    -- Grows each time a process takes the run; what an earlier holder still writes is refused.
    fence integer not null default 0,
    events integer not null default 0,
    created_at timestamptz not null default clock_timestamp(),
    ended_at timestamptz,
    unique (org, desk, request_id)
);
create index run_newest on run (org, desk, created_at desc, id desc);
create index run_open on run (state) where state in ('QUEUED', 'RUNNING');

-- Its steps. An attempt is counted before it is made.
create table step (
    run text not null references run on delete cascade,
    id text not null,
    position integer not null,
    state text not null default 'QUEUED'
        check (state in ('QUEUED', 'RUNNING', 'RETRYING', 'SUCCEEDED', 'FAILED', 'CANCELLED')),
    attempts integer not null default 0,
    error text not null default '',
    output json,
    started_at timestamptz,
    ended_at timestamptz,
    primary key (run, id)
);

-- What happened and has not been shown yet. Within a run, ids and numbers grow together.
create table outbox (
    id bigint generated always as identity primary key,
    run text not null references run on delete cascade,
    number integer not null,
    step text not null,
    state text not null,
    detail text not null,
    at timestamptz not null default clock_timestamp()
);
