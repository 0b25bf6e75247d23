"""Request matching, assignment of units to arms, and the store of routes and upstreams that operators create."""
