"""Request matching, and the store of routes and upstreams that operators create."""
