"""Schedules: runs of a template at times of cron or of an exchange."""
