-- Responses that callers asked to store, with the input items of each request. A chain of responses is linked by
-- `previous`: each row has only the items of its own request.
create table response (
    id text primary key,
    org text not null,
    desk text not null,
    key text not null,
    walls text[] not null,
    created_at timestamptz not null default now(),
    previous text,
    position integer not null,
    chain_bytes bigint not null,
    bytes bigint not null,
    status text not null,
    -- JSON as bytes: texts can have characters that PostgreSQL's JSON does not.
    input bytea not null,
    body bytea not null
);
create index response_created on response (created_at);

-- The bytes that a desk has stored, so that each request checks its share without adding up all rows.
create table stored_bytes (
    org text not null,
    desk text not null,
    bytes bigint not null,
    primary key (org, desk)
);

-- Information barriers: a response is seen from inside all of its walls. This function is the only place that says so.
create or replace function inside(object_walls text[], caller_walls text[]) returns boolean
language sql immutable parallel safe as $$ select object_walls <@ caller_walls $$;

create function visible_responses(of_org text, of_desk text, caller_walls text[]) returns setof response
language sql stable as $$
    select r.* from response r where r.org = of_org and r.desk = of_desk and inside(r.walls, caller_walls)
$$;

create function count_bytes() returns trigger language plpgsql as $$
begin
    if tg_op = 'DELETE' then
        update stored_bytes set bytes = bytes - old.bytes where org = old.org and desk = old.desk;
    elsif tg_op = 'UPDATE' then
        update stored_bytes set bytes = bytes + new.bytes - old.bytes where org = new.org and desk = new.desk;
    else
        insert into stored_bytes (org, desk, bytes) values (new.org, new.desk, new.bytes)
        on conflict (org, desk) do update set bytes = stored_bytes.bytes + excluded.bytes;
    end if;
    return null;
end
$$;

create trigger response_bytes after insert or update of bytes or delete on response
for each row execute function count_bytes();
