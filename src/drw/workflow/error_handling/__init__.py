"""Dead letters: stores failed runs and redrives them. Retries are in `drw.workflow.orchestration.execution`."""
