"""Running experiments of aliases and rollouts in the services that apply them: assignment, treatments, exposures."""
