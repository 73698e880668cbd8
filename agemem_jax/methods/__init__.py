"""The methods that are compared, and any of which can be trained: how each plays a task."""
