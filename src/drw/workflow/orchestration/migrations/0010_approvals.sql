-- Who decides ("desk:NAME", "scope:NAME" of the run's desk, "caller:ID"), the JSON Schema of the values of an approval,
-- the values, and the deadlines that follow: a list of {"to": [...], "deadline_seconds": n}.
alter table approval add column approvers text[] not null default '{}';
alter table approval add column form json;
-- The form is valid for these: the first approval carries them, later ones confirm them.
alter table approval add column form_values json;
alter table approval add column escalation jsonb not null default '[]';
alter table approval add column escalations integer not null default 0;
update approval set approvers = array['desk:' || run.desk] from run where run.id = approval.run;

-- The approver for whom a delegate decided; empty: the key decided for itself.
alter table vote add column on_behalf_of text not null default '';
alter table vote add column delegation text not null default '';

create table delegation (
    id text primary key,
    org text not null,
    walls text[] not null,
    -- Who passed the decision on, the first one is the approver: a list of {"caller": ..., "desk": ...}.
    chain jsonb not null,
    delegated_by text not null,
    desk text not null,
    delegate text not null,
    delegate_desk text not null,
    -- The one approval; null: all approvals.
    run text,
    step text,
    parent text references delegation on delete cascade,
    reason text not null,
    expires_at timestamptz not null,
    created_at timestamptz not null default clock_timestamp(),
    ended_at timestamptz,
    foreign key (run, step) references approval on delete cascade
);
create index delegation_to on delegation (org, delegate) where ended_at is null;
create index delegation_by on delegation (org, desk, delegated_by) where ended_at is null;
create index delegation_of_run on delegation (run) where run is not null;
create index delegation_parent on delegation (parent) where parent is not null;

-- The key that signs links.
create table link_key (
    id boolean primary key default true check (id),
    secret bytea not null
);

create table approval_link (
    id text primary key,
    run text not null,
    step text not null,
    approver text not null,
    created_by text not null,
    expires_at timestamptz not null,
    used_at timestamptz,
    foreign key (run, step) references approval on delete cascade
);
create index approval_link_of_run on approval_link (run, step);

-- Approvals are visible to those who see the run, to those whom they name, and to the delegates of either. This function
-- is the only place that says so.
create function visible_approvals(of_org text, of_desk text, of_caller text, caller_walls text[])
returns setof approval
language sql stable as $$
    select a.* from approval a join run r on r.id = a.run
    where r.org = of_org and inside(r.walls, caller_walls) and (
        r.desk = of_desk
        or a.approvers && array['desk:' || of_desk, 'caller:' || of_caller]
        or exists (
            select from delegation d
            where d.org = of_org and d.delegate = of_caller and d.delegate_desk = of_desk
              and d.ended_at is null and d.expires_at > now()
              and (d.run = a.run and d.step = a.step
                   or d.run is null and (
                       r.desk = d.chain -> 0 ->> 'desk'
                       or a.approvers && array['desk:' || (d.chain -> 0 ->> 'desk'),
                                               'caller:' || (d.chain -> 0 ->> 'caller')]))))
$$;
