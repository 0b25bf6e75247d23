"""Control of runs by callers: pause, fork, retry, signals and queries."""
