"""Commands for workflow templates and runs."""
