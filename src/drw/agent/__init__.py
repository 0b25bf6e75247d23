"""The agent beside a data plane: turns the desired state into what Envoy reads."""
