-- Who there is: orgs, and their desks. What a desk may hold is within its org's, what a key holds within its desk's.
create table org (
    name text primary key,
    title text not null default '',
    scopes text[] not null,
    walls text[] not null default '{}',
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);

create table desk (
    org text not null references org (name),
    name text not null,
    title text not null default '',
    scopes text[] not null,
    walls text[] not null default '{}',
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    primary key (org, name)
);

-- Keys from before there were records keep what they hold: their desk and org are made just wide enough.
insert into org (name, scopes)
    select org, array_agg(distinct scope order by scope) from key, unnest(scopes) scope group by org;
insert into desk (org, name, scopes)
    select org, desk, array_agg(distinct scope order by scope) from key, unnest(scopes) scope group by org, desk;

alter table key add column walls text[] not null default '{}';
alter table key add column signed_with text references signing_key (kid);
alter table key add column ends_at timestamptz;
alter table key add column successor text;
create index key_ends on key (ends_at) where ends_at is not null and revoked_at is null;
create index key_signed on key (signed_with, expires_at);

-- Until now there was one signing key, which signed them all.
update key set signed_with = (select kid from signing_key order by created_at limit 1);

-- A new signing key is known to the data planes before it signs; a retired one verifies nothing.
alter table signing_key add column signs_from timestamptz not null default now();
alter table signing_key add column retired_at timestamptz;
