-- The table of files in vector stores is named after what it holds.
alter table attachment rename to vector_store_file;
alter index attachment_pkey rename to vector_store_file_pkey;
alter index attachment_jobs rename to vector_store_file_jobs;
alter index attachment_file rename to vector_store_file_file;
alter index attachment_content rename to vector_store_file_content;
alter index attachment_unwritten rename to vector_store_file_unwritten;
alter index attachment_desks rename to vector_store_file_desks;
alter index attachment_claimed rename to vector_store_file_claimed;

drop function visible_attachments(text, text, text, text[]);
-- A file that was attached to one collection from inside several sets of walls is listed once for each caller: the
-- one with the most walls that the caller is inside of.
create function visible_vector_store_files(of_org text, of_desk text, of_collection text, caller_walls text[])
returns setof vector_store_file
language sql stable as $$
    select a.* from vector_store_file a where a.org = of_org and a.desk = of_desk and a.collection = of_collection
    and inside(a.walls, caller_walls)
    and (cardinality(caller_walls) = 0 or not exists (
        select from vector_store_file b where b.org = a.org and b.desk = a.desk and b.collection = a.collection
        and b.file = a.file and inside(b.walls, caller_walls)
        and (cardinality(b.walls), b.walls) > (cardinality(a.walls), a.walls)))
$$;

-- When each desk, and with desk '' each org, last had a job claimed: fairness between tenants.
alter table turn rename to last_claim;

-- A worker is alive while it holds its advisory lock and its lease has not expired.
alter sequence worker rename to worker_number;
create table worker (
    number int primary key,
    lease_expires_at timestamptz not null
);

-- The fencing token of a claim. Jobs, claims and deletions take their numbers from one sequence, so that the vector
-- store can reject a write that is older than a later claim or deletion.
alter table vector_store_file add column lease bigint;

-- Outbox of deletions in the vector store: written in the transaction that removes the rows here, deleted once the
-- vector store has confirmed. Without a file it is the whole collection.
create table deletion (
    fence bigint primary key default nextval('job'),
    org text not null,
    desk text not null,
    key text not null,
    collection text not null,
    file text not null default '',
    walls text[] not null,
    -- What the caller deleted: a file, or a file in a collection. A retry of the same call finds the rows by it.
    resource text not null,
    trace text not null default '',
    created_at timestamptz not null default clock_timestamp()
);
create index deletion_resource on deletion (org, desk, key, resource);
