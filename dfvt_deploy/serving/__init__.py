"""Triton: the model repository, the server, the client. Never torch."""
