-- The executor name that has claimed the run, or executes it.
alter table run add column executor text not null default '';
create index run_executor on run (executor) where state in ('QUEUED', 'RUNNING');
