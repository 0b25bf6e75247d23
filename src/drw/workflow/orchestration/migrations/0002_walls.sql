-- Information barriers: a run has the walls of the key that started it, and is seen from inside all of them. This
-- function is the only place that says so.
create function inside(object_walls text[], caller_walls text[]) returns boolean
language sql immutable parallel safe as $$ select object_walls <@ caller_walls $$;

alter table run add column walls text[] not null default '{}';
alter table run drop constraint run_org_desk_request_id_key;
alter table run add constraint run_org_desk_request_id_walls_key unique (org, desk, request_id, walls);

create function visible_runs(of_org text, of_desk text, caller_walls text[]) returns setof run
language sql stable as $$
    select r.* from run r where r.org = of_org and r.desk = of_desk and inside(r.walls, caller_walls)
$$;
