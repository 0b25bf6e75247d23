-- Tokens that the engine counted beyond the reservation: they are in the counts of the row, and charged to nobody.
alter table ledger add column excess_tokens bigint not null default 0;
