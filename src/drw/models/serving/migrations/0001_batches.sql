-- Workers that run the requests of batches: alive while they hold their advisory lock and their lease has not expired.
create sequence worker_number;
create table worker (
    number int primary key,
    lease_expires_at timestamptz not null
);

-- Fencing tokens: each claim of a batch or of a line gets a new one, and only its owner can write the result.
create sequence lease;

-- When a request of each desk, and with desk '' of each org, was last claimed: turns between tenants.
create table last_claim (
    org text not null,
    desk text not null,
    claimed_at timestamptz not null,
    primary key (org, desk)
);

-- An object is visible from inside all of its walls.
create function inside(object_walls text[], caller_walls text[]) returns boolean
language sql immutable parallel safe as $$ select object_walls <@ caller_walls $$;

create table batch (
    number bigint generated always as identity primary key,
    id text not null unique,
    org text not null,
    desk text not null,
    -- The creator: its present permissions decide about each request.
    key text not null,
    scopes text[] not null,
    walls text[] not null,
    endpoint text not null,
    input_file text not null,
    metadata jsonb not null,
    idempotency_key text not null,
    trace text not null,
    state text not null default 'validating' check (state in
        ('validating', 'in_progress', 'finalizing', 'cancelling', 'completed', 'failed', 'expired', 'cancelled')),
    -- The state after the files are written.
    ending text not null default 'completed' check (ending in ('completed', 'expired', 'cancelled')),
    created_at timestamptz not null default clock_timestamp(),
    expires_at timestamptz not null,
    in_progress_at timestamptz,
    finalizing_at timestamptz,
    completed_at timestamptz,
    failed_at timestamptz,
    expired_at timestamptz,
    cancelling_at timestamptz,
    cancelled_at timestamptz,
    -- Errors of the input file, or of the storage of the results.
    errors jsonb not null default '[]',
    model text not null default '',
    output_file text not null default '',
    error_file text not null default '',
    total int not null default 0,
    completed int not null default 0,
    failed int not null default 0,
    output_bytes bigint not null default 0,
    input_tokens bigint not null default 0,
    cached_tokens bigint not null default 0,
    output_tokens bigint not null default 0,
    reasoning_tokens bigint not null default 0,
    -- The worker that validates the file or writes the results, with its fencing token.
    worker int,
    lease bigint,
    attempts int not null default 0,
    -- A limit, a kill or an outage pauses the batch until then.
    not_before timestamptz not null default now()
);
create unique index batch_once on batch (org, desk, key, idempotency_key) where idempotency_key <> '';
create index batch_newest on batch (org, desk, number desc);
create index batch_active on batch (org, number) where state in ('validating', 'in_progress', 'finalizing', 'cancelling');

create function visible_batches(of_org text, of_desk text, caller_walls text[]) returns setof batch
language sql stable as $$
    select b.* from batch b where b.org = of_org and b.desk = of_desk and inside(b.walls, caller_walls)
$$;

-- The requests of a batch, until its results are in files.
create table batch_line (
    batch bigint not null references batch on delete cascade,
    line int not null,
    custom_id text not null,
    -- The body of the request; removed with the result.
    request bytea,
    state text not null default 'pending' check (state in ('pending', 'running', 'completed', 'failed')),
    -- The line of the output or error file; null for requests that never ran.
    response bytea,
    worker int,
    lease bigint,
    attempts int not null default 0,
    -- Attempts that ended with their process.
    interruptions int not null default 0,
    not_before timestamptz not null default now(),
    primary key (batch, line),
    unique (batch, custom_id)
);
create index batch_line_open on batch_line (batch, line) where state in ('pending', 'running');
create index batch_line_running on batch_line (worker) where state = 'running';
