"""PostgreSQL: pools, migrations, group commit and the audit outbox."""
