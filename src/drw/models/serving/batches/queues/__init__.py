"""The queues of batches and of their requests in PostgreSQL, with leases and notifications."""
