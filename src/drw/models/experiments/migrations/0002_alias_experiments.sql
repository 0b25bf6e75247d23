-- Experiments of aliases, which serving assigns and measures, and the experiments behind rollouts.
alter table experiment add column alias text not null default '';
-- The name of the rollout that compares by this experiment; such experiments belong to no desk.
alter table experiment add column rollout text not null default '';
create unique index experiment_of_alias on experiment (org, desk, alias, walls)
    where state = 'RUNNING' and alias <> '' and rollout = '';

create or replace function visible_experiments(of_org text, of_desk text, caller_walls text[])
returns setof experiment language sql stable as $$
    select * from experiment
    where org = of_org and desk = of_desk and inside(walls, caller_walls) and rollout = ''
$$;

-- The sums of a unit's values from before its exposure.
create table covariate (
    experiment bigint not null references experiment on delete cascade,
    metric smallint not null,
    unit bytea not null,
    total double precision not null,
    denominator double precision not null,
    primary key (experiment, metric, unit)
);

drop function unit_sums(bigint, int);
create function unit_sums(of_experiment bigint, of_metric int)
returns table (arm smallint, unit bytea, events bigint, positive bigint, total double precision,
    denominator double precision, total_before double precision, denominator_before double precision)
language sql stable as $$
    select e.arm, e.unit, o.events, o.positive, o.total, o.denominator, c.total, c.denominator
    from exposure e
        left join outcome o on o.experiment = e.experiment and o.metric = of_metric and o.unit = e.unit
        left join covariate c on c.experiment = e.experiment and c.metric = of_metric and c.unit = e.unit
    where e.experiment = of_experiment
$$;

-- An event per call of an experiment, for feedback and for consumers of events. It is kept for some days.
create table call_event (
    id bigint generated always as identity primary key,
    experiment bigint not null references experiment on delete cascade,
    -- A hash of the response id.
    response bytea not null,
    unit bytea not null,
    arm smallint not null,
    -- Values by source, such as TOTAL_MS and COST_NANO; null for a call without outcomes.
    outcomes jsonb,
    at timestamptz not null
);
create unique index call_event_of_response on call_event (response, experiment);
create index call_event_at on call_event (at);

-- What became of the exposures of an experiment.
create table delivery (
    experiment bigint primary key references experiment on delete cascade,
    recorded bigint not null,
    lost bigint not null,
    not_assigned bigint not null
);

create function tell_routing() returns trigger language plpgsql as $$
begin
    notify experiments_routing;
    return null;
end
$$;

create trigger tell_routing after insert or update or delete on experiment
    for each statement execute function tell_routing();
