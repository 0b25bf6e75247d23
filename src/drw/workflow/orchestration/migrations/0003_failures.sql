-- The class and the error class of a failed attempt.
alter table step add column failure_class text not null default ''
    check (failure_class in ('', 'TRANSIENT', 'PERMANENT', 'POLICY', 'BUDGET', 'AMBIGUOUS'));
alter table step add column reason text not null default '';

-- How often a process died or lost the run since its last finished step.
alter table run add column interruptions integer not null default 0;

-- Numbers failed runs in the order of their commits, for the dead letters of error handling.
create sequence run_failure;
alter table run add column failure bigint unique;

-- Lists of runs of one template or in one state.
create index run_of_template on run (org, desk, template_name, created_at desc, id desc);
create index run_in_state on run (org, desk, state, created_at desc, id desc);

-- The failed run that this one restarts.
alter table run add column restart_of text not null default '';
