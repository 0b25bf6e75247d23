-- The keys that started the run, the runs above it, and those that it continues. They are kept when these runs are deleted.
alter table run add column starters text[] not null default '{}';
update run set starters = array(
    with recursive lineage (key, origins) as (
        select run.key, array[run.restart_of, run.forked_from, run.parent]
        union
        select old.key, array[old.restart_of, old.forked_from, old.parent]
        from lineage join run old on old.id = any(lineage.origins)
    ) select distinct key from lineage
);
