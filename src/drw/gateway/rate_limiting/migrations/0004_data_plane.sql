-- Which change of the limits each data plane enforces, and when that was last said.
create table data_plane (
    name text primary key,
    change bigint not null,
    seen_at timestamptz not null
);
-- Successors of keys, and the first key of their line: their requests of a minute are counted together.
create table counted_as (
    org text not null,
    key text not null,
    counted_as text not null,
    primary key (org, key)
);
-- From 1 on, so that a data plane that enforces the first state of all has something to say.
update change set number = number + 1;
