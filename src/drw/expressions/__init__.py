"""Expressions of workflow templates: `${...}` in a text, evaluated by CEL (the Common Expression Language)."""
