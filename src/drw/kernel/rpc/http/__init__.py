"""HTTP server of a process: REST routes, request bodies, server-sent events, and the metrics page."""
