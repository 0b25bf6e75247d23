"""Generates the values of the Helm chart, their schema, and the chart's copy of the alert rules."""
