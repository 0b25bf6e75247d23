-- Days after which an ended run is deleted; 0: never; -1: the default of the platform.
alter table run add column retention_days integer not null default -1;
create index run_retention on run (retention_days, ended_at) where ended_at is not null and parent is null;

-- Legal holds. A run is covered by its id, its template, its desk and its org.
create table hold (
    id text primary key,
    org text not null,
    desk text not null,
    walls text[] not null,
    kind text not null check (kind in ('RUN', 'TEMPLATE', 'DESK', 'ORG')),
    name text not null,
    reason text not null,
    placed_by text not null,
    placed_at timestamptz not null default clock_timestamp(),
    released_by text not null default '',
    released_at timestamptz
);
create index hold_in_force on hold (org, kind, name) where released_at is null;
create index hold_newest on hold (org, placed_at desc);

create function is_held(of_org text, of_desk text, of_template text, of_run text) returns boolean
language sql stable as $$
    select exists (
        select from hold h where h.org = of_org and h.released_at is null and (
            h.kind = 'ORG' or h.desk = of_desk and (
                h.kind = 'DESK' or h.kind = 'TEMPLATE' and h.name = of_template or h.kind = 'RUN' and h.name = of_run)))
$$;

-- Deleted runs whose rows in other stores are not deleted yet.
create table deleted_run (
    run text primary key,
    org text not null,
    desk text not null,
    at timestamptz not null default clock_timestamp()
);

-- The deletion of a run deletes its events that are not published yet.
create index outbox_run on outbox (run);

-- Lists of runs of one template in one state.
create index run_of_template_in_state on run (org, desk, template_name, state, created_at desc, id desc);

-- Searches for a part of an input or of an error, of at least three characters.
create extension if not exists pg_trgm with schema public;
create index run_inputs on run using gin (lower(inputs::text) public.gin_trgm_ops);
create index run_error on run using gin (lower(error) public.gin_trgm_ops) where error <> '';

-- The same rule as before. Where no run has walls, the planner takes `<@` to be true for one run in 200, and sorts all
-- runs of a desk instead of reading the newest from an index. Of a `case` it assumes one in two.
create or replace function inside(object_walls text[], caller_walls text[]) returns boolean
language sql immutable parallel safe as $$ select case when object_walls <@ caller_walls then true else false end $$;
