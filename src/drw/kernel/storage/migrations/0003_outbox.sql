-- Events that are committed together with an audit record. The consumer of a topic deletes them in the transaction in
-- which it applies them, so that each event counts once, also if a process dies.
create table outbox (
    id bigint generated always as identity primary key,
    topic text not null,
    body jsonb not null,
    at timestamptz not null default now()
);
create index outbox_of_topic on outbox (topic, id);
