"""Experiments of aliases and rollouts: assignment of calls, treatments, exposures and shadow calls."""
