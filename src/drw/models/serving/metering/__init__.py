"""Metering of calls: reservation, settlement, local quotas, pricing."""
