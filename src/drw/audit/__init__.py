"""The audit trail: the service that keeps it (`log`), its tree (`tlog`), and a verifier for anybody (`verify`)."""
