"""Execution of one run: interpreter, step executor, journal, leader election."""
