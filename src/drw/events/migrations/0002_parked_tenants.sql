-- The tenant and the type of parked events, for those who may see and redrive them. A malformed message has no tenant.
alter table parked add column type text not null default '';
alter table parked add column org text not null default '';
alter table parked add column desk text not null default '';
alter table parked add column walls text[] not null default '{}';
alter table parked add column malformed boolean not null default false;
-- The consumer tries a parked event again after this time.
alter table parked add column redrive_at timestamptz;
alter table parked add column redrives integer not null default 0;
create index parked_of_tenant on parked (org, desk, id);
create index parked_redriven on parked (consumer, id) where redrive_at is not null;

update parked set malformed = true where event_id like 'malformed-%';
update parked set type = e->>'type', org = coalesce(e->>'org', ''), desk = coalesce(e->>'desk', ''),
    walls = string_to_array(coalesce(e->>'walls', ''), ' ')
from (select id as of, convert_from(event, 'UTF8')::jsonb as e from parked where not malformed) as events
where of = id;
