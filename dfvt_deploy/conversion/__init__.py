"""From PyTorch to ONNX and on: each step takes a model or an artifact and leaves an artifact."""
