"""The language model on a machine of one's own: llama.cpp in a process of its own.

It is no service: serving reaches it as it reaches any engine, by OpenAI's API, here on a Unix socket.
A crash in native code ends this process alone, and whoever supervises it starts it again.
"""
