"""Routes of the data plane: the route table, its validation, and who may see which route."""
