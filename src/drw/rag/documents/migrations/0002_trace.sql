-- The traceparent of whoever ordered the job, so that its spans and audit records are part of that trace.
alter table attachment add column trace text not null default '';
