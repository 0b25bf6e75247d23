-- An experiment is seen from inside all of its walls.
create function inside(object_walls text[], caller_walls text[]) returns boolean
language sql immutable parallel safe as $$ select object_walls <@ caller_walls $$;

create table experiment (
    key bigint generated always as identity primary key,
    org text not null,
    desk text not null,
    name text not null,
    walls text[] not null,
    -- What the author wrote: arms, metrics, unit, traffic and alpha.
    definition jsonb not null,
    state text not null default 'DRAFT' check (state in ('DRAFT', 'RUNNING', 'STOPPED')),
    created_at timestamptz not null default now(),
    started_at timestamptz,
    stopped_at timestamptz,
    stop_reason text not null default '',
    unique (org, desk, name)
);
create index experiment_running on experiment (key) where state = 'RUNNING';

-- A row per unit that saw its arm. Units are hashes: their ids are never stored.
create table exposure (
    experiment bigint not null references experiment on delete cascade,
    unit bytea not null,
    arm smallint not null,
    at timestamptz not null default now(),
    primary key (experiment, unit)
);

-- The sums of a metric of a unit. Analysis reads units, not requests.
create table outcome (
    experiment bigint not null references experiment on delete cascade,
    metric smallint not null,
    unit bytea not null,
    events bigint not null,
    positive bigint not null,
    total double precision not null,
    denominator double precision not null,
    primary key (experiment, metric, unit)
);

-- How many values of a unit lie in each bucket of a histogram, for quantiles.
create table outcome_bucket (
    experiment bigint not null references experiment on delete cascade,
    metric smallint not null,
    unit bytea not null,
    bucket smallint not null,
    events bigint not null,
    primary key (experiment, metric, unit, bucket)
);

-- Ids of outcomes, so that a retry does not count twice.
create table outcome_id (
    experiment bigint not null references experiment on delete cascade,
    id bytea not null,
    at timestamptz not null default now(),
    primary key (experiment, id)
);
create index outcome_id_at on outcome_id (at);

create function visible_experiments(of_org text, of_desk text, caller_walls text[]) returns setof experiment
language sql stable as $$
    select * from experiment where org = of_org and desk = of_desk and inside(walls, caller_walls)
$$;

-- All exposed units of an experiment, with the sums of a metric; nulls for a unit without values.
create function unit_sums(of_experiment bigint, of_metric int)
returns table (arm smallint, unit bytea, events bigint, positive bigint, total double precision,
    denominator double precision)
language sql stable as $$
    select e.arm, e.unit, o.events, o.positive, o.total, o.denominator
    from exposure e left join outcome o on o.experiment = e.experiment and o.metric = of_metric and o.unit = e.unit
    where e.experiment = of_experiment
$$;
