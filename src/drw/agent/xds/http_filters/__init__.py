"""Envoy's HTTP filters: authentication, limits, deny list, bodies, headers, local replies."""
