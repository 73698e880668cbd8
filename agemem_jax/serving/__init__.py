"""The policy behind HTTP: continuous batching, OpenAI's interfaces, memory for other agents."""
