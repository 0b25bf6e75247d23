"""Conformance suite of the Open Inference Protocol V2, over REST and gRPC.

Source of the requirements: kserve/open-inference-protocol, specification/protocol; the extensions of binary tensor data
and of the model repository, as the clients of the protocol use them.
"""
