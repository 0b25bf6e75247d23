-- The digest of a step's arguments, with which a replay compares those of the present code.
alter table step add column arguments text not null default '';
