"""Runs one ONNX model in a process of its own, which serving starts and talks to over an inherited socket.

A crash in native code ends only this process, and its memory returns to the system when the model is unloaded.
"""
