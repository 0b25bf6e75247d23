"""Model-risk governance: validation records, permits, promotions and the history of aliases."""
