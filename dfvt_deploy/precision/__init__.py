"""Files of lower precision, made from a model's FP32 ONNX file and compared with it.

Enter at `convert.convert`; `build_engines` also makes TensorRT engines of the files. The ways down
are the subclasses of `conversions.Conversion`; `search` finds the nodes that must stay in FP32. All
are calibrated on real images (`calibration`).
"""
