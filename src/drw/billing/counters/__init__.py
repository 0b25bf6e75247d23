"""Counters of money and tokens in Valkey: scripts, client, rebuild after a loss."""
