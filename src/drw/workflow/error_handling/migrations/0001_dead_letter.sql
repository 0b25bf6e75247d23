-- A failed run, with its cause. Letters of the same cause have the same group.
create table dead_letter (
    number bigint generated always as identity primary key,
    id text not null unique,
    org text not null,
    desk text not null,
    walls text[] not null,
    -- The planner knows how many rows have walls, but not how many arrays are contained in another.
    walled boolean not null generated always as (cardinality(walls) > 0) stored,
    run text not null unique,
    key text not null,
    template text not null,
    template_version text not null,
    inputs json not null,
    step text not null,
    node text not null,
    failure_class text not null,
    reason text not null,
    error text not null,
    attempts integer not null,
    restart_of text not null,
    group_id text not null,
    failed_at timestamptz not null,
    state text not null default 'OPEN' check (state in ('OPEN', 'REDRIVING', 'REDRIVEN', 'DISCARDED')),
    redrive text not null default '',
    redriven_run text not null default '',
    redrive_error text not null default '',
    closed_at timestamptz
);
create index dead_letter_newest on dead_letter (org, desk, number desc);
create index dead_letter_group on dead_letter (org, desk, group_id, number desc);
create index dead_letter_closed on dead_letter (closed_at) where closed_at is not null;

-- The last failure that was read from orchestration.
create table progress (
    one boolean primary key default true check (one),
    failure bigint not null
);
insert into progress (failure) values (0);

-- Information barriers: a letter and a redrive are seen from inside all of their walls.
create function inside(object_walls text[], caller_walls text[]) returns boolean
language sql immutable parallel safe as $$ select object_walls <@ caller_walls $$;

-- A request to start new runs for letters. It acts for its key.
create table redrive (
    id text primary key,
    org text not null,
    desk text not null,
    key text not null,
    scopes text[] not null,
    walls text[] not null,
    walled boolean not null generated always as (cardinality(walls) > 0) stored,
    request_id text not null,
    fingerprint text not null,
    runs_per_minute integer not null,
    inputs json not null,
    template_version text not null,
    from_step text not null,
    state text not null default 'ACTIVE' check (state in ('ACTIVE', 'ENDED', 'STOPPED')),
    worker integer,
    created_at timestamptz not null default clock_timestamp(),
    ended_at timestamptz,
    unique (org, desk, request_id, walls)
);
create index redrive_active on redrive (created_at) where state = 'ACTIVE';

create table redrive_group (
    redrive text not null references redrive on delete cascade,
    group_id text not null,
    state text not null default 'WAITING' check (state in ('WAITING', 'PROBING', 'PASSED', 'REFUSED')),
    probe_run text not null default '',
    probe_deadline timestamptz,
    error text not null default '',
    primary key (redrive, group_id)
);

create table redrive_item (
    redrive text not null references redrive on delete cascade,
    letter bigint not null references dead_letter on delete cascade,
    group_id text not null,
    state text not null default 'WAITING' check (state in ('WAITING', 'STARTED', 'FAILED', 'PUT_BACK')),
    primary key (redrive, letter)
);
create index redrive_item_waiting on redrive_item (redrive, group_id, letter) where state = 'WAITING';
create index redrive_item_letter on redrive_item (letter);

-- Redrives are worked on by the owner of a lease.
create table worker (number int primary key, lease_expires_at timestamptz not null);
create sequence worker_number;
