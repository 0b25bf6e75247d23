"""Selection of a model replica: candidates, load balancing, circuit breakers, admission."""
