"""Templates: workflow templates and their versions."""
