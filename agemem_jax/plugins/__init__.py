"""How parts are found by name and given their options; knows nothing of what they are."""
