"""TensorRT engines: built from exported ONNX files, with a record that says what they hold."""
