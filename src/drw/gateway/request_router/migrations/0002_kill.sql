-- The kill switch. At most one kill of a subject is open at a time; a kill that is over stays for the record.
create table kill (
    number bigint generated always as identity primary key,
    id text not null unique,
    subject text not null check (subject in ('KEY', 'DESK', 'MODEL', 'WORKFLOW')),
    org text not null,
    name text not null,
    reason text not null,
    state text not null check (state in ('PROPOSED', 'ACTIVE', 'LIFTED', 'WITHDRAWN', 'EXPIRED')),
    killed_by text[] not null,
    proposed_at timestamptz not null default clock_timestamp(),
    killed_at timestamptz,
    lifted_by text[] not null default '{}',
    lift_reason text not null default '',
    lifted_at timestamptz,
    -- When what is proposed, the kill or its lift, ends by itself; null: nothing is.
    proposal_ends_at timestamptz
);
create unique index kill_open on kill (subject, org, name) where state in ('PROPOSED', 'ACTIVE');
