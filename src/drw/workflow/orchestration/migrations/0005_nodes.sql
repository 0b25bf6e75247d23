-- What a control node or a waiting step decided first: the items of a map, the case of a switch, a deadline. A replay
-- reads it instead of deciding again.
alter table step add column decision json;

-- A run that a step of another run started.
alter table run add column parent text references run on delete cascade;
alter table run add column depth integer not null default 0;
create index run_parent on run (parent) where parent is not null;

-- Steps that wait for approvals. They are visible to those who see the run.
create table approval (
    run text not null references run on delete cascade,
    step text not null,
    title text not null,
    details json,
    quorum integer not null check (quorum between 1 and 20),
    deadline timestamptz not null,
    state text not null default 'PENDING' check (state in ('PENDING', 'APPROVED', 'REJECTED', 'EXPIRED')),
    created_at timestamptz not null default clock_timestamp(),
    primary key (run, step)
);
create index approval_pending on approval (created_at) where state = 'PENDING';

create table vote (
    run text not null,
    step text not null,
    key text not null,
    decision text not null check (decision in ('APPROVE', 'REJECT')),
    comment text not null,
    at timestamptz not null default clock_timestamp(),
    primary key (run, step, key),
    foreign key (run, step) references approval on delete cascade
);
