-- The files of a retired version can be deleted; its record keeps their paths, digests and sizes.
alter table version add column files_deleted_at timestamptz;
alter table version add column files_deleted_by text not null default '';
create trigger deletion_of_files_is_final before update of files_deleted_at, files_deleted_by on version
    for each row when (old.files_deleted_at is not null) execute function refuse_change();

alter table version_file add column size bigint;
update version_file set size = model_file.size from model_file
    where model_file.org = version_file.org and model_file.sha256 = version_file.sha256;
alter table version_file alter column size set not null;
-- The stored file; null: it was deleted.
alter table version_file add column stored text;
update version_file set stored = sha256;
alter table version_file drop constraint version_file_org_sha256_fkey;
alter table version_file add foreign key (org, stored) references model_file;
drop index version_file_sha256;
create index version_file_stored on version_file (org, stored);

-- Whether no version has a file, as one of its files or as its signature.
create function is_unused(file_org text, file_sha256 text) returns boolean language sql stable as $$
    select not exists (select from version_file where org = file_org and stored = file_sha256)
        and not exists (select from version where org = file_org and files_deleted_at is null
            and metadata ->> 'signature_sha256' = file_sha256)
$$;

drop view version_state;
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
