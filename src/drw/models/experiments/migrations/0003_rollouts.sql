create table rollout (
    key bigint generated always as identity primary key,
    name text not null unique,
    -- What the author wrote: candidate, unit, steps and guardrails.
    definition jsonb not null,
    alias text not null,
    state text not null default 'DRAFT' check (
        state in ('DRAFT', 'APPROVED', 'SHADOW', 'RAMP', 'PROMOTING', 'PROMOTED', 'ROLLED_BACK', 'CANCELLED')),
    percent int not null default 0,
    paused boolean not null default false,
    reason text not null default '',
    created_by text not null,
    approved_by text not null default '',
    -- The comparison of the candidate with its control group, from the start on.
    experiment bigint references experiment,
    created_at timestamptz not null default now(),
    step_at timestamptz not null default now(),
    ended_at timestamptz
);
create unique index rollout_active on rollout (alias) where state in ('SHADOW', 'RAMP', 'PROMOTING');

-- Each change of a rollout, with the numbers that decided it.
create table rollout_transition (
    id bigint generated always as identity primary key,
    rollout bigint not null references rollout on delete cascade,
    at timestamptz not null default now(),
    action text not null,
    state text not null,
    percent int not null,
    actor text not null,
    reason text not null,
    numbers jsonb not null
);
create index transition_of_rollout on rollout_transition (rollout, id);

-- Sums over the shadow calls of a rollout.
create table shadow (
    experiment bigint primary key references experiment on delete cascade,
    compared bigint not null,
    failed bigint not null,
    dropped bigint not null,
    same_text bigint not null,
    same_finish_reason bigint not null,
    length_ratio double precision not null,
    ms double precision not null,
    primary_ms double precision not null
);

create trigger tell_routing after insert or update or delete on rollout
    for each statement execute function tell_routing();
