-- Requests by outcome, for windows of up to six hours and for longer ones.
create table sample_minute (
    service text not null,
    at timestamptz not null,
    good bigint not null,
    slow bigint not null,
    failed bigint not null,
    primary key (service, at)
);
create index sample_minute_at on sample_minute (at);
create table sample_hour (like sample_minute including all);

-- The counts of each run of a process that the samples contain, so that each request is in one sample.
create table position (
    process text not null,
    instance text not null,
    service text not null,
    good bigint not null,
    slow bigint not null,
    failed bigint not null,
    seen_at timestamptz not null default now(),
    primary key (process, instance, service)
);

-- The present state of a service, or of a replica of a model.
create table state (
    subject text primary key,
    state int not null
);
create table transition (
    number bigint generated always as identity primary key,
    subject text not null,
    from_state int not null,
    to_state int not null,
    detail text not null,
    at timestamptz not null default now(),
    more int not null default 0
);
create index transition_subject on transition (subject, number desc);
create index transition_at on transition (at);
