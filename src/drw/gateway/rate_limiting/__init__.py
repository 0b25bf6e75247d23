"""Stores limits, budgets and prices. Requests a minute are counted in `drw.agent.native_filter`."""
