-- An entry of the log has at most 65,535 bytes (C2SP tlog-tiles).
alter table inbox add constraint record_fits check (octet_length(record) <= 65535);

create function tell_the_log() returns trigger language plpgsql as $$
begin
    notify audit_inbox;
    return null;
end
$$;

create trigger tell_the_log after insert on inbox for each statement execute function tell_the_log();
