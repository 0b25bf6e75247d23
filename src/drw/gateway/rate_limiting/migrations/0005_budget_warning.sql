-- The period and the amount of a budget for which an event said that it is nearly spent. One row for each budget.
create table budget_warning (
    kind text not null,
    org text not null,
    name text not null,
    period text not null,
    unit text not null,
    period_start timestamptz not null,
    amount bigint not null,
    primary key (kind, org, name, period, unit)
);
