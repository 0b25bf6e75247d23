"""The audit log: the service (`log`), its transparency log (`tlog`), and an offline verifier (`verify`)."""
