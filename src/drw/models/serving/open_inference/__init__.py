"""The Open Inference Protocol V2 over REST and gRPC, with binary tensor data and the model repository extension."""
