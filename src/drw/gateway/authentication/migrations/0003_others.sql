-- Whose tokens count besides our own, and for which org; `jwks` are the last keys that were good.
create table issuer (
    name text primary key,
    issuer text not null unique,
    audiences text[] not null,
    jwks_uri text not null,
    jwks text not null,
    org text not null references org (name),
    claims jsonb not null,
    default_desk text not null,
    roles jsonb not null,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    fetched_at timestamptz,
    refresh_at timestamptz,
    fetch_error text not null default ''
);

-- Who calls with a client certificate of this name.
create table certificate (
    name text primary key,
    san text not null unique,
    org text not null,
    desk text not null,
    scopes text[] not null,
    walls text[] not null,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    foreign key (org, desk) references desk (org, name)
);
