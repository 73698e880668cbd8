"""The warm-up: demonstrations of a scripted agent that the policy imitates first."""
