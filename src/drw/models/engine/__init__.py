"""The llama.cpp server as a separate process for the bundled model.

It is not a service: serving calls it like any engine through OpenAI's API, here on a Unix socket.
A crash in native code ends only this process, and the supervisor restarts it.
"""
