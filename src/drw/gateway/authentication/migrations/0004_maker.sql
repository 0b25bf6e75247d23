-- Who made a key, and whether somebody did whose own identity ends elsewhere: an issuer's token, or a certificate.
alter table key add column created_by text not null default '';
alter table key add column borrowed boolean not null default false;
