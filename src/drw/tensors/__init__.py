"""Tensors of predictive models: data types, encoding, and the frames between serving and the model processes."""
