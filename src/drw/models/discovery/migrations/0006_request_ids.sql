-- Requests that callers repeat, such as steps of workflows, have an id and take effect once. Empty: no id.
alter table promotion add column request_id text not null default '';
create unique index promotion_request on promotion (org, request_id) where request_id <> '';
alter table evaluation add column request_id text not null default '';
create unique index evaluation_request on evaluation (version, request_id) where request_id <> '';
