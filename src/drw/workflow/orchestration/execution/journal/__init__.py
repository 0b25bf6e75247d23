"""The record of runs: each change of a run or a step, its statements, and the notification of waiting processes."""
