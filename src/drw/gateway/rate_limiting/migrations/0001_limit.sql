create table key_limit (
    key text primary key,
    org text not null,
    desk text not null,
    requests_per_minute integer not null check (requests_per_minute > 0),
    expires_at timestamptz not null
);

create index key_limit_org on key_limit (org);
