-- Events that services publish, in the transaction of the change. The relay sends them to the bus in the order of ids.
-- Events of one key have ids in the order of their commits: `publish` takes a lock on the key first.
create table outbox (
    id bigint generated always as identity primary key,
    event_id text not null,
    event bytea not null,
    -- When the broker accepted it. A broker that loses its data gets sent events again.
    sent_at timestamptz,
    created_at timestamptz not null default clock_timestamp()
);
create index outbox_unsent on outbox (id) where sent_at is null;
create index outbox_sent on outbox (sent_at) where sent_at is not null;

-- The generation of the broker's data that the sent events are in.
create table relay (
    single boolean primary key default true check (single),
    generation text not null
);

-- Events that a consumer has applied, written in the transaction that applies them.
create table inbox (
    consumer text not null,
    event_id text not null,
    at timestamptz not null default clock_timestamp(),
    primary key (consumer, event_id)
);
create index inbox_at on inbox (at);

-- Events that a consumer could not apply. They do not block the events behind them.
create table parked (
    id bigint generated always as identity primary key,
    consumer text not null,
    event_id text not null,
    event bytea not null,
    error text not null,
    at timestamptz not null default clock_timestamp()
);
create index parked_of_consumer on parked (consumer, id);
