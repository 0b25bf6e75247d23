-- Values of more than 64 KiB: the row has a reference, `{"sha256": ..., "bytes": ...}`. The column `inputs` then lacks
-- the largest inputs.
alter table run add column inputs_payload jsonb;
alter table run add column output_payload jsonb;
alter table step add column output_payload jsonb;
alter table step add column decision_payload jsonb;

-- Which runs use a blob. The row is written before the blob, and before a run that starts: there is no foreign key.
create table payload (
    run text not null,
    sha256 text not null,
    org text not null,
    desk text not null,
    bytes bigint not null,
    created_at timestamptz not null default clock_timestamp(),
    primary key (run, sha256)
);
create index payload_of_desk on payload (org, desk, sha256);
create index payload_age on payload (created_at);
