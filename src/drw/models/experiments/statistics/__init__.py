"""Always-valid statistics for A/B experiments, computed from mergeable sufficient statistics."""
