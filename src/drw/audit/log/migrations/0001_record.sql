-- Every record in its place in the log. `entry` is what is hashed; the other columns are read out of it, for lists.
create table record (
    index bigint primary key check (index >= 0),
    entry text not null,
    leaf_hash bytea not null,
    at timestamptz not null,
    service text not null,
    action text not null,
    org text not null,
    desk text not null,
    actor text not null,
    resource text not null,
    outcome text not null,
    trace_id text not null
);
create index record_of_desk on record (org, desk, index desc);
create index record_of_org on record (org, index desc);

-- Every checkpoint that was signed, so that the log's folder cannot go back in time unseen.
create table checkpoint (
    size bigint primary key,
    note text not null,
    at timestamptz not null default now()
);
