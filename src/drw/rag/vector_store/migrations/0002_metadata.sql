-- What was read off a document: company, ticker, document type, period. Automatic filters compare with it.
alter table document add column metadata jsonb not null default '{}', drop column dated;

-- Was the weighted words that a document is about; is the terms by which a question can name it, as `key:term`.
truncate subject;
alter table subject drop column weight;

-- Whether metadata has, for each key of the filters, one of the values. Where the key is not known it is `unknown`.
create function metadata_fits(metadata jsonb, filters jsonb, unknown boolean) returns boolean
language sql immutable as $$
    select coalesce(bool_and(case when metadata ? f.key then f.value ? (metadata ->> f.key) else unknown end), true)
    from jsonb_each(filters) f
$$;
