"""Model registry: models, aliases and the addresses of their replicas."""
