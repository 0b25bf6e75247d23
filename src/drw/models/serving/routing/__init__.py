"""Choice of a model endpoint: candidates, load balancing, circuit breakers, admission."""
