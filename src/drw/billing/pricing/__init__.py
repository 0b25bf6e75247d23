"""Prices, budgets and limits as rate limiting publishes them."""
