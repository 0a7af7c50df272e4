"""Bundle -> ONNX, TorchScript and torch.export graphs, each behind a gate."""
