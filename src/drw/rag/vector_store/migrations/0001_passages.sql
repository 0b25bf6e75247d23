-- Collections of documents as passages. All that belongs to a document hangs on its row and goes with it.
create extension if not exists vector with schema public;

create table collection (
    key bigint generated always as identity primary key,
    id text not null unique,
    org text not null,
    desk text not null,
    name text not null,
    metadata jsonb not null default '{}',
    created_at timestamptz not null default now(),
    -- Kept in the transaction that changes what they count, as are the same figures of each document.
    documents bigint not null default 0,
    chunks bigint not null default 0,
    bytes bigint not null default 0,
    terms bigint not null default 0,
    unique (org, desk, name)
);

create table document (
    key bigint generated always as identity primary key,
    collection bigint not null references collection on delete cascade,
    id text not null,
    title text not null,
    content_hash text not null,
    pages int not null,
    chunks int not null,
    bytes bigint not null,
    terms bigint not null,
    dated date,
    attributes jsonb not null,
    indexed_at timestamptz not null default now(),
    unique (collection, id)
);
create index document_attributes on document using gin (attributes jsonb_path_ops);

-- Who may see a document. Apart from the vectors, since changing a vector's row writes it anew into the graph.
create table permission (
    document bigint not null references document on delete cascade,
    principal text not null,
    primary key (document, principal)
);

create table chunk (
    document bigint not null references document on delete cascade,
    number int not null,
    page int not null,
    begins int not null,
    ends int not null,
    text text not null,
    context text not null,
    hash text not null,
    primary key (document, number)
);

create table chunk_vector (
    collection bigint not null,
    document bigint not null references document on delete cascade,
    number int not null,
    value vector(384) not null,
    primary key (document, number)
);
create index chunk_vector_nearest on chunk_vector using hnsw (value vector_ip_ops);

-- One row a term and document. A hit is three 32-bit integers, the least byte first: the number of the chunk,
-- how often the term stands in it, and how many terms the chunk has.
create table posting (
    collection bigint not null,
    term text collate "C" not null,
    document bigint not null references document on delete cascade,
    hits bytea not null,
    primary key (collection, term, document)
);
create index posting_document on posting (document);

-- What a document is about as a whole: the words of its title, attributes and context.
create table subject (
    collection bigint not null,
    term text collate "C" not null,
    document bigint not null references document on delete cascade,
    weight real not null,
    primary key (collection, term, document)
);
create index subject_document on subject (document);

-- The documents of a collection that a principal may see and that have these attributes.
create function visible(of_collection bigint, who text, with_attributes jsonb) returns setof document
language sql stable as $$
    select d.* from document d join permission p on p.document = d.key and p.principal = who
    where d.collection = of_collection and d.attributes @> with_attributes
$$;
