-- Routes that operators made, as the contract has them.
create table route (
    name text primary key,
    definition jsonb not null,
    changed_at timestamptz not null default now(),
    changed_by text not null
);
