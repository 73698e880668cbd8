"""Configurations that earlier versions have recorded, as this one has them."""

import copy
from typing import Any

# The option model.attention, as model.backend.
_OF_ATTENTION = {"cpp": "cpu", "pallas": "tpu", "pallas_interpreted": "tpu_interpreted"}
_OF_HOTPOTQA = ("data_dir", "manual_dir", "train_file", "validation_file")
# What was done before there were these options, whatever their defaults are.
_NEW_OPTIONS = {
    "rewards": {"variant": "literal", "on_failure": None},
    "episode": {"show_context_use": False},
}
# Options of rewards: the component that has them now, and their name there.
_OF_REWARDS = {
    "no_answer": ("task", "no_answer"),
    "high_quality": ("memory", "high_quality"),
    "round_penalty": ("penalty", "round_limit"),
    "overflow_penalty": ("penalty", "token_budget"),
}


def translate(values: dict[str, Any]) -> dict[str, Any]:
    """The values of a record in this version's options; those of this version unchanged."""
    values = copy.deepcopy(values)
    if "model" in values:
        _translate_model(values["model"])
    if "name" in values.get("tasks", {}):
        values["tasks"] = _tasks(values["tasks"])
    if "w_task" in values.get("rewards", {}):
        values["rewards"] = _rewards(values["rewards"])
    for group, options in _NEW_OPTIONS.items():
        if group in values:
            values[group] = {**options, **values[group]}
    if "grpo" in values and "rescore_old" not in values["grpo"]:
        _translate_update(values)
    return values


def _translate_update(values: dict[str, Any]) -> None:
    """What was recorded while sampling served as it was, and nothing was clipped unasked."""
    grpo, engine, model = (values.get(name, {}) for name in ("grpo", "engine", "model"))
    rounds = (model.get("compute_dtype"), engine.get("cache_dtype"), engine.get("weights"))
    if "bfloat16" in rounds or "int8" in rounds:  # elsewhere it still does
        grpo["rescore_old"] = False
    several = grpo.get("epochs", 1) * grpo.get("minibatches", 1) > 1
    if several and grpo.get("clip_low") is None and grpo.get("clip_high") is None:
        grpo["clip_low"] = 1.0


def _translate_model(model: dict[str, Any]) -> None:
    if "attention" in model:
        attention = model.pop("attention")
        model.setdefault("backend", _OF_ATTENTION.get(attention, attention))


def _tasks(old: dict[str, Any]) -> dict[str, Any]:
    """One group of options for each source, whichever was played; now that of the one played."""
    new = {name: old[name] for name in ("eval_size", "eval_split") if name in old}
    new |= {"source": old["name"], "options": dict(old.get(old["name"], {}))}
    if old["name"] == "multihop":
        new["options"] |= {"size": old["train_size"]} if "train_size" in old else {}
    else:
        new["options"] |= {name: old[name] for name in _OF_HOTPOTQA if name in old}
        if new.get("eval_split") == "test":
            new["eval_split"] = None  # "validation" was taken for it
    return new


def _rewards(old: dict[str, Any]) -> dict[str, Any]:
    """One option for each weight; T_max stood here once more, and is the episode's alone now."""
    components: dict[str, Any] = {
        name: {"function": name, "weight": old[f"w_{name}"], "options": {}}
        for name in ("task", "context", "memory")
    }
    components["penalty"] = {"function": "penalty", "weight": 1.0, "options": {}}
    for name, (component, option) in _OF_REWARDS.items():
        if name in old:
            components[component]["options"][option] = old[name]
    return {"components": components}
