"""Commands for keys, identities, limits, budgets, routes and kills."""
