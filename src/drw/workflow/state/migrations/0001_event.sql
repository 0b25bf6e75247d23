-- What happened in every run. The live view is made from it, and made again whenever it is lost.
create table event (
    org text not null,
    desk text not null,
    run text not null,
    number integer not null,
    event bytea not null,
    primary key (org, desk, run, number)
);
