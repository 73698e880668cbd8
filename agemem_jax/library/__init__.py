"""What `import agemem_jax` offers, as functions: train, evaluate, export, load an agent."""
