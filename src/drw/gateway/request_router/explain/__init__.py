"""Explanation of which route, limits, budgets and models a request meets."""
