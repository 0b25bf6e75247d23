-- The state in which a run ends after its steps are undone, and why they are. Empty: they are not.
alter table run add column undo_state text not null default '' check (undo_state in ('', 'FAILED', 'CANCELLED'));
alter table run add column undo_reason text not null default '';

-- The arguments of the step's compensation, with names of secrets and without their values.
alter table step add column undo json;
