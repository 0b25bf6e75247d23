-- Who made which key and which key it succeeds: kept apart from the keys, and longer than they are.
create table key_lineage (
    key text primary key,
    -- The first key of its chain of rotations.
    root text not null,
    predecessor text,
    -- The caller that made it; empty: not on record.
    maker text not null,
    -- What let the maker issue keys to others at that moment; empty: it made the key for itself.
    authority text not null check (authority in ('', 'org:admin', 'platform:admin')),
    maker_org text not null,
    maker_desk text not null
);

with recursive chain (key, root, predecessor) as (
    select id, id, null from key where id not in (select successor from key where successor is not null)
    union all
    select key.successor, chain.root, key.id from chain join key on key.id = chain.key where key.successor is not null
)
insert into key_lineage
    select chain.key, chain.root, chain.predecessor, own.created_by,
        case
            when own.created_by = 'operator' or 'platform:admin' = any (maker.scopes) then 'platform:admin'
            when 'org:admin' = any (maker.scopes) then 'org:admin'
            else ''
        end,
        coalesce(maker.org, ''), coalesce(maker.desk, '')
    from chain join key own on own.id = chain.key left join key maker on maker.id = own.created_by;

create index key_lineage_root on key_lineage (root);
create index key_maker on key (created_by);
