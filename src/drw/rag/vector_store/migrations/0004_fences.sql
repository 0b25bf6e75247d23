-- Fencing tokens: a write that is older than what is stored, or than a later deletion, is rejected. 0: not fenced.
alter table document add column fence bigint not null default 0;

-- Deletions of documents, for as long as a delayed write may still arrive.
create table deleted_document (
    collection bigint not null references collection on delete cascade,
    id text not null,
    walls text[] not null,
    fence bigint not null,
    deleted_at timestamptz not null default now(),
    primary key (collection, id, walls)
);
create index deleted_document_age on deleted_document (deleted_at);
