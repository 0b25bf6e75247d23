"""The ledger in PostgreSQL: rows, writer, sums, carryover between keys."""
