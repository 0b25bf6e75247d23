"""The data plane agent: translates the desired state of the request router into Envoy configuration."""
