-- Every version of a template that was ever on offer: what a run was started from can always be shown.
create table version (
    name text not null,
    version text not null,
    source text not null,
    seen_at timestamptz not null default now(),
    primary key (name, version)
);
