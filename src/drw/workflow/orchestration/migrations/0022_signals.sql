-- Signals to a run, in the order of their arrival. A step receives each at most once.
create table run_signal (
    number bigint generated always as identity primary key,
    run text not null references run on delete cascade,
    id text not null,
    name text not null,
    payload json not null,
    fingerprint text not null,
    key text not null,
    received_at timestamptz not null default clock_timestamp(),
    -- The step that received it.
    step text,
    unique (run, id),
    unique (run, step)
);
create index run_signal_pending on run_signal (run, name, number) where step is null;
