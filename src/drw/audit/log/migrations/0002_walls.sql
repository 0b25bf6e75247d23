-- Information barriers: a record has the walls that its actor stood inside of, and is shown from inside all of them.
-- This function is the only place that says so. Proofs and verification are over all records, whoever sees them.
create function inside(object_walls text[], caller_walls text[]) returns boolean
language sql immutable parallel safe as $$ select object_walls <@ caller_walls $$;

alter table record add column walls text[] not null default '{}';
