"""The data plane's agent: it turns the request router's words into Envoy's files."""
