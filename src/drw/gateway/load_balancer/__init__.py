"""Knows where each upstream answers, and how to spread requests over it."""
