-- Events that arrived on the bus, for operators. The number grows in the order of commits: inserts are serialised.
create table event (
    number bigint generated always as identity primary key,
    id text not null,
    type text not null,
    source text not null,
    subject text not null,
    time timestamptz not null,
    org text not null,
    desk text not null,
    walls text[] not null,
    actor text not null,
    data jsonb not null,
    at timestamptz not null default clock_timestamp()
);
create index event_of_tenant on event (org, desk, number);
create index event_at on event (at);

-- Whether a caller with these walls is inside all of an event's walls.
create function inside(walls text[], caller text[]) returns boolean language sql immutable
    return walls <@ caller;
