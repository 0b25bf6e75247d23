-- Files of a desk, and their places in collections. The bytes are on disk, under their SHA-256.
create table file (
    id text primary key,
    org text not null,
    desk text not null,
    name text not null,
    purpose text not null,
    bytes bigint not null,
    content_hash text not null,
    created_at timestamptz not null default clock_timestamp(),
    unique (org, desk, content_hash, name, purpose)
);
create index file_newest on file (org, desk, created_at, id);
create index file_content on file (content_hash);

create sequence worker;

-- A file in a collection: while it is in progress, also the job that puts it there.
create table attachment (
    org text not null,
    desk text not null,
    collection text not null,
    file text not null references file on delete cascade,
    content_hash text not null,
    attributes jsonb not null default '{}',
    key text not null,
    state text not null default 'in_progress'
        check (state in ('in_progress', 'completed', 'failed', 'cancelled')),
    error_code text not null default '',
    error text not null default '',
    pages int not null default 0,
    chunks int not null default 0,
    bytes bigint not null default 0,
    -- Whether another file of the collection had the same content, so that this one was not indexed again.
    unchanged boolean not null default false,
    -- The job's order, and its fence: it changes with every new order to index.
    job bigint not null,
    attempts int not null default 0,
    not_before timestamptz not null default now(),
    worker bigint,
    created_at timestamptz not null default clock_timestamp(),
    primary key (org, desk, collection, file)
);
create sequence job owned by attachment.job;
alter table attachment alter column job set default nextval('job');
create index attachment_jobs on attachment (job) where state = 'in_progress';
create index attachment_file on attachment (file);
create index attachment_content on attachment (org, desk, collection, content_hash);

create table batch (
    id text primary key,
    org text not null,
    desk text not null,
    collection text not null,
    created_at timestamptz not null default clock_timestamp()
);

create table batch_file (
    batch text not null references batch on delete cascade,
    file text not null references file on delete cascade,
    primary key (batch, file)
);
