-- Whether an administrator of the platform asked for a kill, and which principal each voice was. What was killed for
-- every org before stays so, and is the platform's to lift.
alter table kill add column by_platform boolean not null default false;
alter table kill add column killed_by_principals text[] not null default '{}';
alter table kill add column lifted_by_principals text[] not null default '{}';
update kill set by_platform = (org = ''), killed_by_principals = killed_by, lifted_by_principals = lifted_by;

create index kill_of_org on kill (org, number desc);
create index kill_open_of_org on kill (org, number desc) where state in ('PROPOSED', 'ACTIVE');
create index kill_in_force on kill (number) where state = 'ACTIVE';
create index kill_proposed on kill (proposal_ends_at) where proposal_ends_at is not null;
