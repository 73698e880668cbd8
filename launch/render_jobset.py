"""Prints the manifest of a training job on a TPU slice of Google Kubernetes Engine.

    python launch/render_jobset.py --name=NAME --image=IMAGE --topology=TYPE:TOPOLOGY \
        -- [arguments of experiments/train.py]

    python launch/render_jobset.py --name=agemem-a --image=REGISTRY/agemem:1 --topology=v5e:4x4 \
        -- --config=experiments/configs/smollm2_hotpotqa.py --workdir=gs://BUCKET/runs/a \
        | kubectl apply -f -

The image is that of launch/Dockerfile, built with EXTRA=tpu. A host has four chips, or one for
1x1, as the machine types for several hosts have (names ending with -4t). The manifest is
launch/gke_jobset.yaml; its values are filled in after it was parsed, so that no name or
argument can change its structure.
"""

import math
import pathlib
import re
import string
import sys

import yaml
from absl import app, flags

_NAME = flags.DEFINE_string("name", None, "Of the JobSet.")
_IMAGE = flags.DEFINE_string("image", None, "Container image with this repository.")
_TOPOLOGY = flags.DEFINE_string("topology", None, "TPU type and topology, such as v5e:4x4.")
_MAX_RESTARTS = flags.DEFINE_integer(
    "max_restarts", 10, "Restarts after a death; preemptions are not counted.", lower_bound=0
)

_TEMPLATE = pathlib.Path(__file__).with_name("gke_jobset.yaml")
_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_SMALL_CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4")
# TPU type: the node label's value, and the most chips of a slice whose topology is a cuboid.
_TYPES = {
    "v4": ("tpu-v4-podslice", 4096),
    "v5e": ("tpu-v5-lite-podslice", None),
    "v5p": ("tpu-v5p-slice", 8960),
    "v6e": ("tpu-v6e-slice", None),
}
_CHIPS_PER_HOST = 4


def slice_of(topology: str) -> dict[str, str | int]:
    """The template's values for a slice such as "v5e:4x4"; ValueError if there is none."""
    kind, _, shape = topology.partition(":")
    if kind not in _TYPES:
        raise ValueError(f"--topology={topology} must be TYPE:TOPOLOGY with a TYPE of {[*_TYPES]}.")
    accelerator, most_chips = _TYPES[kind]
    sides = [int(side) for side in shape.split("x")] if re.fullmatch(r"\d+(x\d+)*", shape) else []
    chips = math.prod(sides)
    if most_chips is None:
        known, wanted = shape in _FLAT, f"one of {', '.join(_FLAT)}"
    else:
        known = shape in _SMALL_CUBES or (
            re.fullmatch(r"[1-9]\d*(x[1-9]\d*){2}", shape) is not None
            and sides == sorted(sides)
            and not any(side % 4 for side in sides)
            and chips <= most_chips
        )
        wanted = (
            f"{', '.join(_SMALL_CUBES)}, or three rising multiples of 4 such as 4x4x8 with at most "
            f"{most_chips} chips"
        )
    if not known:
        raise ValueError(f"--topology={topology} does not exist; {kind} has {wanted}.")
    chips_per_host = min(chips, _CHIPS_PER_HOST)
    return {
        "accelerator": accelerator,
        "topology": shape,
        "hosts": chips // chips_per_host,
        "chips_per_host": chips_per_host,
    }


def render(
    name: str, image: str, topology: str, max_restarts: int, arguments: list[str]
) -> dict[str, object]:
    """The manifest as Python values; ValueError where a value is none that the cluster takes."""
    values = slice_of(topology)
    # A pod is called NAME-train-0-HOST with five more letters, and a host name has 63.
    longest = 63 - len(f"-train-0-{values['hosts'] - 1}-") - 5
    if not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name) or len(name) > longest:
        raise ValueError(
            f"--name={name!r} must be at most {longest} small letters, digits and '-', beginning "
            "with a letter and not ending with '-'."
        )
    if not re.fullmatch(r"[\w.:/@-]+", image, re.ASCII):
        raise ValueError(f"--image={image!r} is no name of an image.")
    # Kubernetes replaces $(NAME) in arguments, and takes $$ for $ before a parenthesis.
    arguments = ["--distributed", *(argument.replace("$(", "$$(") for argument in arguments)]
    values |= {"name": name, "image": image, "max_restarts": max_restarts, "arguments": arguments}
    return _fill(yaml.safe_load(_TEMPLATE.read_text()), values)


def _fill(node, values: dict[str, object]):
    """Replaces ${...} in the parsed template; alone in a string, it gives the value itself."""
    if isinstance(node, dict):
        return {key: _fill(value, values) for key, value in node.items()}
    if isinstance(node, list):
        return [_fill(item, values) for item in node]
    if not isinstance(node, str):
        return node
    alone = re.fullmatch(r"\$\{(\w+)\}", node)
    return values[alone[1]] if alone else string.Template(node).substitute(values)


def main(argv):
    try:
        manifest = render(_NAME.value, _IMAGE.value, _TOPOLOGY.value, _MAX_RESTARTS.value, argv[1:])
    except ValueError as error:
        sys.exit(f"Error: {error}")
    yaml.safe_dump(manifest, sys.stdout, sort_keys=False, width=100)


if __name__ == "__main__":
    flags.mark_flags_as_required(["name", "image", "topology"])
    app.run(main)
