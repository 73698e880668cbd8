"""Memory systems and their libraries on the same replies of a model."""
