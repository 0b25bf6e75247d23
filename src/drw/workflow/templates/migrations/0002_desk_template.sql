-- Templates that desks write: one row for each change, the newest is current. A template has the walls of the key that
-- wrote it, and is seen from inside all of them.
create table desk_template (
    id bigint generated always as identity primary key,
    org text not null,
    desk text not null,
    walls text[] not null,
    name text not null,
    -- Null: deleted.
    version text,
    source text,
    changed_by text not null,
    changed_at timestamptz not null default clock_timestamp()
);
create index desk_template_newest on desk_template (org, desk, name, walls, id desc);

create function visible_templates(of_org text, of_desk text, caller_walls text[]) returns setof desk_template
language sql stable as $$
    select t.* from desk_template t where t.org = of_org and t.desk = of_desk and t.walls <@ caller_walls
$$;

-- The current templates. Of two with one name, that with more walls wins: it was written for this caller.
create function current_templates(of_org text, of_desk text, caller_walls text[]) returns setof desk_template
language sql stable as $$
    select distinct on (newest.name) newest.* from (
        select distinct on (t.name, t.walls) t.* from visible_templates(of_org, of_desk, caller_walls) t
        order by t.name, t.walls, t.id desc
    ) newest
    where newest.version is not null
    order by newest.name, cardinality(newest.walls) desc, newest.walls
$$;
