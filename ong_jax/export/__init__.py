"""Files for networks that leave: compressed, SciPy's, ONNX."""
