-- Which org and desk a key belongs to, as the authentication service announces it. The key "oidc:ISSUER:" stands for
-- all callers that an issuer identifies; its desk is empty, since each token names one.
create table key_owner (
    key text primary key,
    org text not null,
    desk text not null,
    expires_at timestamptz
);

-- A limit binds a key only within its org: one that another org has set keeps nobody from setting the right one.
drop index subject_limit_of_key;
