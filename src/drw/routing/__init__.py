"""Request matching, the egress allow-list and the resource store of routes and upstreams."""
