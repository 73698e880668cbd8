"""Where metrics go besides `metrics.jsonl`: TensorBoard, Weights & Biases, a user's own."""
