"""The environments that come with the library."""

from agemem_jax.plugins.registry import Registry

ENVIRONMENTS = Registry(
    "environment",
    {
        "alfworld": "agemem_jax.environments.alfworld:ALFWorld",
        "scienceworld": "agemem_jax.environments.scienceworld:ScienceWorld",
        "babyai": "agemem_jax.environments.babyai:BabyAI",
        "pddl": "agemem_jax.environments.pddl.environment:PDDL",
        "trl": "agemem_jax.environments.trl_style:TRLEnvironment",
        "openenv": "agemem_jax.environments.openenv:OpenEnv",
    },
)
