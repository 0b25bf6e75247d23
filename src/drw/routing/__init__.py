"""Request matching, assignment to the arms of experiments, and the store of operators' routes and upstreams."""
