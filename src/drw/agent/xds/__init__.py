"""Translation of the desired state into the configuration of Envoy."""
