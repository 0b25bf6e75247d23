"""A/B experiments between model versions (contract only)."""
