"""The workflow cluster: orchestration, state, templates, error handling."""
