-- An alias belongs to the platform (empty org) or to an org. That of an org names a registered version.
alter table alias add column org text not null default '';
alter table alias add column version bigint references version;
alter table alias drop constraint alias_pkey;
alter table alias add primary key (org, name);
create index alias_version on alias (version);

-- What each alias named, and since when. Rows are only added: the next row of an alias ends the one before.
create table alias_history (
    key bigint generated always as identity primary key,
    org text not null,
    name text not null,
    -- Models with weight and digest; null: the alias did not exist.
    targets jsonb,
    fallbacks jsonb not null default '[]',
    total_seconds double precision not null default 0,
    version bigint references version,
    walls text[] not null default '{}',
    valid_from timestamptz not null default clock_timestamp(),
    changed_by text not null,
    reason text not null default '',
    promotion text not null default '',
    -- It returned to the target before.
    rollback boolean not null default false
);
create index alias_history_name on alias_history (org, name, key);
create trigger alias_history_is_kept before update or delete on alias_history
    for each row execute function refuse_change();

insert into alias_history (org, name, targets, fallbacks, total_seconds, valid_from, changed_by, reason)
select org, name,
    (select jsonb_agg(jsonb_build_object('model', key, 'weight', value, 'digest', '')) from jsonb_each(targets)),
    fallbacks, total_seconds, changed_at, 'unknown', 'set before this history began'
from alias order by changed_at;

create table promotion (
    key bigint generated always as identity primary key,
    id text not null unique default 'pro_' || replace(gen_random_uuid()::text, '-', ''),
    org text not null,
    alias text not null,
    version bigint not null references version,
    reason text not null,
    state text not null default 'PENDING' check (state in ('PENDING', 'APPROVED', 'REJECTED')),
    requested_by text not null,
    requested_at timestamptz not null default clock_timestamp(),
    decided_by text not null default '',
    decided_at timestamptz,
    decision_reason text not null default ''
);
create index promotion_org on promotion (org, key);
create unique index promotion_pending on promotion (org, alias) where state = 'PENDING';

-- The newest approved record of each version, with its stage. Whether the record still permits traffic depends on time.
create view version_state as
select version.*, force.key as validation_key, force.id as validation, force.expires_at, force.overdue_at,
    force.revoked_at, force.revoke_reason, waiting.key as waiting_key,
    case
        when version.retired_at is not null then 'RETIRED'
        when force.key is not null and force.revoked_at is null and exists (
            select from alias where alias.version = version.key
        ) then 'LIVE'
        when force.key is not null and force.revoked_at is null then 'APPROVED'
        when waiting.key is not null then 'VALIDATED'
        else 'REGISTERED'
    end as stage
from version
left join lateral (
    select * from validation
    where validation.version = version.key and approved_at is not null and superseded_at is null
    order by key desc limit 1
) force on true
left join lateral (
    select key from validation
    where validation.version = version.key and approved_at is null and superseded_at is null and revoked_at is null
) waiting on true;
