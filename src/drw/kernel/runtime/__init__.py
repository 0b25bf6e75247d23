"""The process: host of services, settings, clock, status report."""
