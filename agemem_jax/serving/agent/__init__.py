"""An agent to talk to: a policy in a conversation without an end, with a memory that lasts."""
