-- Of a candidate that is a registered version: the org that owns it. Automatic changes act for this org.
alter table rollout add column org text not null default '';
