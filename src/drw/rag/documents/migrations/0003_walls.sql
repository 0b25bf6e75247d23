-- Information barriers. An object is seen from inside all of its walls; a file in a collection has those of both, and
-- those it was put in with. This function is the only place that says so.
create function inside(object_walls text[], caller_walls text[]) returns boolean
language sql immutable parallel safe as $$ select object_walls <@ caller_walls $$;

alter table file add column walls text[] not null default '{}';
alter table file drop constraint file_org_desk_content_hash_name_purpose_key;
alter table file add constraint file_org_desk_content_hash_name_purpose_walls_key
    unique (org, desk, content_hash, name, purpose, walls);

alter table attachment add column walls text[] not null default '{}';
alter table attachment drop constraint attachment_pkey;
alter table attachment add primary key (org, desk, collection, file, walls);

alter table batch add column walls text[] not null default '{}';

-- Which change of the attributes this is, and which one the vector store is known to have; 0: it has no document of
-- this file, or one whose attributes are all text, as the last release wrote them.
alter table attachment add column attributes_version bigint not null default 1;
alter table attachment add column attributes_written bigint not null default 0;
update attachment set attributes_written = 1
    where unchanged or not jsonb_path_exists(attributes, '$.* ? (@.type() != "string")');
create index attachment_unwritten on attachment (org, desk, collection)
    where state = 'completed' and attributes_written < attributes_version;

create function visible_files(of_org text, of_desk text, caller_walls text[]) returns setof file
language sql stable as $$
    select f.* from file f where f.org = of_org and f.desk = of_desk and inside(f.walls, caller_walls)
$$;

create function visible_batches(of_org text, of_desk text, of_collection text, caller_walls text[])
returns setof batch
language sql stable as $$
    select b.* from batch b where b.org = of_org and b.desk = of_desk and b.collection = of_collection
    and inside(b.walls, caller_walls)
$$;

-- A file that was put into one collection from inside several sets of walls is there once for each caller: as it was
-- put in from inside the most that the caller stands inside of.
create function visible_attachments(of_org text, of_desk text, of_collection text, caller_walls text[])
returns setof attachment
language sql stable as $$
    select a.* from attachment a where a.org = of_org and a.desk = of_desk and a.collection = of_collection
    and inside(a.walls, caller_walls)
    and (cardinality(caller_walls) = 0 or not exists (
        select from attachment b where b.org = a.org and b.desk = a.desk and b.collection = a.collection
        and b.file = a.file and inside(b.walls, caller_walls)
        and (cardinality(b.walls), b.walls) > (cardinality(a.walls), a.walls)))
$$;
