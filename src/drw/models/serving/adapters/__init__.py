"""Engine adapters: llama.cpp, OpenAI-compatible servers, Vertex AI."""
