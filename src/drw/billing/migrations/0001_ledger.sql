-- What every call took and cost: the truth about money. A row is never changed, but for `posted`.
create table ledger (
    id text primary key,
    at timestamptz not null,
    org text not null,
    desk text not null,
    key text not null,
    model text not null,
    upstream text not null,
    route text not null,
    prompt_tokens bigint not null,
    completion_tokens bigint not null,
    -- Nano-dollars for a million tokens, as they were at the time.
    prompt_price bigint not null,
    completion_price bigint not null,
    -- Nano-dollars. Less than nothing only in a correction.
    cost bigint not null,
    -- What the engine counted beyond the reservation; charged to nobody.
    excess bigint not null,
    outcome text not null,
    counted_by text not null,
    -- Whether the counters know of it; a call with a reservation tells them by itself.
    posted boolean not null
);
create index ledger_of_key on ledger (org, key, at);
create index ledger_of_desk on ledger (org, desk, at);
create index ledger_of_model on ledger (model, at);
create index ledger_unposted on ledger (id) where not posted;

-- Processes that hold reservations. After a loss of the counters they are waited for.
create table holder (
    id text primary key,
    seen timestamptz not null default now()
);

-- Names these books: counters that were made from others (a database that was put back, say) are not ours.
create table book (id text not null);
insert into book values (gen_random_uuid()::text);
