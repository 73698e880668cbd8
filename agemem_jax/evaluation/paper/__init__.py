"""The paper's tables and figures: what each needs, what was stored, how it is shown."""
