"""Route explanation: the route, limits, budgets and models of a request."""
