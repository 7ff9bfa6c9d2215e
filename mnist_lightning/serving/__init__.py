"""Deployment: a verified ONNX file, a JSON service and a page to draw on."""
