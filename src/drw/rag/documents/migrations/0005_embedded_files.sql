-- Files that were attached to another one, what was seen of a file when it came, and what reading it left out.
alter table file add column parent text references file on delete cascade;
alter table file add column details jsonb not null default '{}';
alter table attachment add column warnings jsonb not null default '[]';

-- The same attachment may come with many mails: each has its own, which goes when its mail goes.
alter table file drop constraint file_org_desk_content_hash_name_purpose_walls_key;
create unique index file_once on file (org, desk, content_hash, name, purpose, walls) where parent is null;
create unique index file_once_embedded on file (parent, content_hash, name) where parent is not null;
