"""TensorRT plans on an NVIDIA GPU: find the GPU and TensorRT, load a plan, run it on arrays.

Enter at `plan.LoadedPlan`. The modules need numpy, cuda-bindings and TensorRT, and import nothing
else of dfvt_deploy: `serve` copies this folder, as `dfvt_gpu`, beside the embedded server's
`tensorrt` backend.
"""
