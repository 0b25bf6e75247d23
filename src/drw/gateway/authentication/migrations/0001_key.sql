-- What signs keys. The newest signs; all verify, until the last key that they signed has ended.
create table signing_key (
    kid text primary key,
    private_key text not null,
    created_at timestamptz not null default now()
);

-- Keys as issued: never the secret itself.
create table key (
    number bigint generated always as identity primary key,
    id text not null unique,
    name text not null,
    org text not null,
    desk text not null,
    scopes text[] not null,
    last_characters text not null,
    created_at timestamptz not null,
    expires_at timestamptz not null,
    revoked_at timestamptz,
    requests_per_minute integer not null
);

create index key_owner on key (org, desk, number desc);
create index key_revoked on key (expires_at) where revoked_at is not null;
