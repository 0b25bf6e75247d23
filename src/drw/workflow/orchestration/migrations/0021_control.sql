-- A paused run starts no step.
alter table run add column paused_at timestamptz;
alter table run add column paused_by text not null default '';

-- Whether a run, or one above it, is paused.
create function run_is_paused(run_id text) returns boolean
language sql stable as $$
    select r.paused_at is not null or (r.parent is not null and run_is_paused(r.parent)) from run r where r.id = run_id
$$;

-- The run that this one forks or retries, and the node from which on its steps run again.
alter table run add column forked_from text not null default '';
alter table run add column from_step text not null default '';
create index run_forks on run (forked_from) where forked_from <> '';
create index run_restarts on run (restart_of) where restart_of <> '';

-- The order of the queued runs of a desk: -1 is low, 0 normal, 1 high.
alter table run add column priority smallint not null default 0 check (priority between -1 and 1);
-- When the queue let a queued run start.
alter table run add column dispatched_at timestamptz;
create index run_dispatched on run (org, desk, dispatched_at);
