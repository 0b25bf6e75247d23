"""Commands for models, aliases and chat."""
