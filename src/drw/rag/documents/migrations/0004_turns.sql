-- When each desk, and with desk '' each org, last had a file taken for indexing: the next is of whoever waits longest.
create table turn (
    org text not null,
    desk text not null,
    claimed_at timestamptz not null,
    primary key (org, desk)
);
create index attachment_desks on attachment (org, desk, job) where state = 'in_progress';
create index attachment_claimed on attachment (worker) where state = 'in_progress' and worker is not null;
