create table alias (
    name text primary key,
    targets jsonb not null,
    fallbacks jsonb not null,
    total_seconds double precision not null,
    changed_at timestamptz not null default now()
);
