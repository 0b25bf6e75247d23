-- The digest of the retrieval settings of the call's arm; null without any. The walls of the call's caller: feedback needs
-- a caller inside of them.
alter table call_event add column settings bytea, add column walls text[] not null default '{}';
