"""Experiments of aliases and rollouts: the arm of each call, and shadow calls."""
