"""Dead letters: stores failed steps and redrives them. Retries are in `drw.workflow.orchestration.execution`."""
