"""Checks of templates: nodes, graph, expressions, approvals, signals, and what the operator has configured."""
