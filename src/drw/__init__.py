"""The DRW AI platform: one package, sixteen services."""
