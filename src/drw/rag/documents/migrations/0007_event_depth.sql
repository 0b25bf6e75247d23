-- How many runs that an event started led to the request for the job, one by another.
alter table vector_store_file add column event_depth integer not null default 0;
