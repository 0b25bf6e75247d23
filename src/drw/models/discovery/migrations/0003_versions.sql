-- An object is seen from inside all of its walls.
create function inside(object_walls text[], caller_walls text[]) returns boolean
language sql immutable parallel safe as $$ select object_walls <@ caller_walls $$;

-- Uploaded files. Each org has its own: knowing the digest of another org's file gives no access to it.
create table model_file (
    org text not null,
    sha256 text not null,
    size bigint not null,
    uploaded_at timestamptz not null default now(),
    primary key (org, sha256)
);

create table version (
    key bigint generated always as identity primary key,
    -- Empty: a model of the settings.
    org text not null,
    desk text not null,
    model text not null,
    digest text not null,
    id text not null generated always as (model || '@' || substr(digest, 8, 12)) stored,
    kind text not null,
    engine text not null,
    walls text[] not null,
    -- What the registrar wrote, and what its files contain.
    metadata jsonb not null,
    contents jsonb not null,
    registered_by text not null,
    registered_at timestamptz not null default clock_timestamp(),
    retired_at timestamptz,
    retired_by text not null default '',
    retire_reason text not null default '',
    unique (org, model, digest),
    unique (org, id)
);

create function refuse_change() returns trigger language plpgsql as $$
begin
    raise exception '% cannot be changed', tg_table_name;
end $$;

-- A version is immutable; only its retirement is added.
create trigger version_is_immutable before update of org, desk, model, digest, kind, engine, walls, metadata, contents,
    registered_by, registered_at on version for each row execute function refuse_change();
create trigger version_is_kept before delete on version for each row execute function refuse_change();

create table version_file (
    version bigint not null references version,
    org text not null,
    path text not null,
    sha256 text not null,
    primary key (version, path),
    foreign key (org, sha256) references model_file
);
create index version_file_sha256 on version_file (org, sha256);

create table evaluation (
    key bigint generated always as identity primary key,
    version bigint not null references version,
    suite text not null,
    data text not null,
    metrics jsonb not null,
    added_by text not null,
    added_at timestamptz not null default clock_timestamp()
);
create index evaluation_version on evaluation (version, key);

create table validation (
    key bigint generated always as identity primary key,
    id text not null unique default 'val_' || replace(gen_random_uuid()::text, '-', ''),
    version bigint not null references version,
    record jsonb not null,
    validator text not null,
    submitted_at timestamptz not null default clock_timestamp(),
    expires_at timestamptz not null,
    -- The earliest due date of an unresolved finding of high severity.
    overdue_at timestamptz,
    approved_by text not null default '',
    approved_at timestamptz,
    superseded_at timestamptz,
    revoked_by text not null default '',
    revoked_at timestamptz,
    revoke_reason text not null default ''
);
create index validation_version on validation (version, key);
-- At most one record is in force, and at most one waits for approval.
create unique index validation_in_force on validation (version)
    where approved_at is not null and superseded_at is null and revoked_at is null;
create unique index validation_waiting on validation (version)
    where approved_at is null and superseded_at is null and revoked_at is null;
