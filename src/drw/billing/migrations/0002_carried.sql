-- What a key had spent before it began: by the key whose place it took. `at` is the beginning of the day or month in
-- which that was, or the moment before.
create table carried (
    org text not null,
    key text not null,
    at timestamptz not null,
    cost bigint not null,
    tokens bigint not null,
    primary key (org, key, at)
);
