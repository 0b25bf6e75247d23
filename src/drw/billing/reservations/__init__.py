"""Reservations of metered calls: client, leases, local quotas, settlement."""
