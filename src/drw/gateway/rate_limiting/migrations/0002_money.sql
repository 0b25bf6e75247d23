-- The limits of a key, desk, org or model; 0 is no limit.
create table subject_limit (
    kind text not null,
    org text not null,
    name text not null,
    desk text not null,
    requests_per_minute integer not null,
    tokens_per_minute bigint not null,
    concurrent integer not null,
    algorithm text not null,
    when_lost text not null,
    expires_at timestamptz,
    primary key (kind, org, name)
);
create unique index subject_limit_of_key on subject_limit (name) where kind = 'KEY';
insert into subject_limit
select 'KEY', org, key, desk, requests_per_minute, 0, 0, 'FIXED', 'LOCAL_SHARE', expires_at from key_limit;
drop table key_limit;

-- What a subject may spend in a period: nano-dollars, or tokens.
create table budget (
    kind text not null,
    org text not null,
    name text not null,
    desk text not null,
    period text not null,
    unit text not null,
    amount bigint not null check (amount >= 0),
    primary key (kind, org, name, period, unit)
);

-- Nano-dollars for a million tokens, from a time on.
create table price (
    model text not null,
    version text not null,
    effective_from timestamptz not null,
    prompt bigint not null check (prompt >= 0),
    completion bigint not null check (completion >= 0),
    primary key (model, version, effective_from)
);

-- Whose calls the data planes refuse, and until when; null: until somebody changes something.
create table block (
    kind text not null,
    org text not null,
    name text not null,
    reason text not null,
    until timestamptz,
    primary key (kind, org, name, reason)
);

-- Numbers the changes of limits and budgets, so that an older state never replaces a newer one in the counters.
create table change (number bigint not null);
insert into change values (0);
