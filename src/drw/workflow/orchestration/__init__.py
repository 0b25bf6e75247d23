"""Orchestration: durable execution of workflow runs."""
