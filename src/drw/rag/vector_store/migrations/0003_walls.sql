-- Information barriers. An object is seen from inside all of its walls; a document has those of its collection too.
-- This function is the only place that says so; every query about a collection or a document goes through it.
create function inside(object_walls text[], caller_walls text[]) returns boolean
language sql immutable parallel safe as $$ select object_walls <@ caller_walls $$;

alter table collection add column walls text[] not null default '{}';
-- Deleted by a caller who stands outside the walls of what is left in it: there for those inside alone.
alter table collection add column withdrawn boolean not null default false;
alter table collection drop constraint collection_org_desk_name_key;
create unique index collection_name on collection (org, desk, name, walls) where not withdrawn;

alter table document add column walls text[] not null default '{}';
alter table document add column attributes_version bigint not null default 0;
alter table document drop constraint document_collection_id_key;
alter table document add constraint document_collection_id_walls_key unique (collection, id, walls);
create index document_written on document (collection, indexed_at, id);

-- How much a collection has inside each set of walls, kept in the transaction that changes it: a caller is shown the
-- sum of what it may see.
create table collection_total (
    collection bigint not null references collection on delete cascade,
    walls text[] not null,
    documents bigint not null,
    chunks bigint not null,
    bytes bigint not null,
    terms bigint not null,
    primary key (collection, walls)
);
insert into collection_total (collection, walls, documents, chunks, bytes, terms)
    select key, '{}', documents, chunks, bytes, terms from collection;
alter table collection
    drop column documents, drop column chunks, drop column bytes, drop column terms;

-- The collections of a desk that a caller may see.
create function visible_collections(of_org text, of_desk text, caller_walls text[]) returns setof collection
language sql stable as $$
    select c.* from collection c
    where c.org = of_org and c.desk = of_desk and inside(c.walls, caller_walls)
    and (not c.withdrawn or exists (
        select from collection_total t
        where t.collection = c.key and t.documents > 0 and inside(t.walls, caller_walls)))
$$;

-- The documents of a collection that a principal may see from inside these walls and that a filter takes (null: all).
-- One that was put in from inside several sets of walls is there once: inside the most of them.
drop function if exists visible(bigint, text, jsonb);
create function visible(of_collection bigint, who text, caller_walls text[], filter jsonpath) returns setof document
language sql stable as $$
    select d.* from document d join permission p on p.document = d.key and p.principal = who
    where d.collection = of_collection and inside(d.walls, caller_walls)
    and (cardinality(caller_walls) = 0 or not exists (
        select from document o where o.collection = d.collection and o.id = d.id and inside(o.walls, caller_walls)
        and (cardinality(o.walls), o.walls) > (cardinality(d.walls), d.walls)))
    and (filter is null or d.attributes @@ filter)
$$;
