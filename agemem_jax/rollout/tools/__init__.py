"""The tools of the policy: what they look like and what they do, a file for each kind."""
