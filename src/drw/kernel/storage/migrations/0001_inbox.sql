-- Where services write audit records, in their own transactions; the log takes them from here, in order.
create table inbox (
    id bigint generated always as identity primary key,
    record text not null
);
