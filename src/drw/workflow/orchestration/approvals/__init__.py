"""Approvals: steps that wait for decisions of other persons than the one who started the run."""
