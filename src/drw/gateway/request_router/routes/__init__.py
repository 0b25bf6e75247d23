"""Routes of the data plane: the route table, validation and visibility."""
