-- The response of a batch is stored in the transaction of its charge, which has another search path.
alter function count_bytes() set search_path from current;
