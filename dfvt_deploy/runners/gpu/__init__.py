"""A plan on a GPU: numpy, cuda-bindings and the plan's TensorRT, nothing else of this package.

The runner uses it, and so does the `tensorrt` backend of the embedded server, beside whose
model.py this folder is copied.
"""
