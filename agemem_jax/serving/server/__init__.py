"""The model, the agent and its memories over HTTP; needs requirements-serve.txt."""
