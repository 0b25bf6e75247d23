"""Billing of money and tokens: amounts, subjects, counters in Valkey, the ledger; see docs/concepts/metering.md."""
