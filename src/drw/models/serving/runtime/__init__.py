"""Runtime of model files: loads models into processes of their own, within a memory budget."""
