"""Request matching, assignment of units and calls to arms, and the store of routes and upstreams that operators create."""
