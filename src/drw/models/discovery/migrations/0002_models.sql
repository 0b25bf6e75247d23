-- When each model of the settings was first here: what callers see as `created` where its settings do not say.
create table model (
    id text primary key,
    first_seen timestamptz not null default now()
);
