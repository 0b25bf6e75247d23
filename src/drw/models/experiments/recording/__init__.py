"""Recording of exposures, outcomes and feedback."""
