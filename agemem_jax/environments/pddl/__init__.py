"""Planning problems in PDDL as text environments: AgentBoard's four domains and any other.

`texts` reads PDDL, `wording` turns facts and actions into sentences and back, `model` simulates
by unified-planning, `experts` plan by rules, `environment` is what an agent plays. Only `model`
needs unified-planning, and only once an environment is reset.
"""
