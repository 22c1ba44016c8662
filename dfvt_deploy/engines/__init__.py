"""TensorRT engines: plans built from exported ONNX files, each with a record of what it holds.

Enter at `build.build_engine`, which builds one plan, and `engine.open_engine`, which verifies one.
`record` describes the JSON file beside a plan, `layers` counts what a plan computes in, and
`machine` finds what can build here.
"""
