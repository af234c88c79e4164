"""A saved model as one file that other programs run: ONNX or `torch.export`, checked against PyTorch."""
