"""What `jepack export` is asked for by name; apart from the libraries that do it, so that --help is quick."""

FORMATS = ("onnx", "torchscript", "pt2", "fp16", "int8")  # in the order of the table
DEFAULT_FORMATS = ("onnx", "torchscript")
CHECKS = ("rank", "isotropy", "neighbours", "knn", "retrieval")  # of --against
