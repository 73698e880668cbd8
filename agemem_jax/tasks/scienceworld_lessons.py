"""What is known of ScienceWorld's 30 tasks: how many variations there are, and what helps.

The numbers are the simulator's (version 1.2.3); the lessons stand for what an agent would have
learned by doing the tasks.
"""

import dataclasses
from collections.abc import Mapping

GENERAL = (
    "In the science house, to focus on a thing says that it is the one that the task is about, "
    "and to focus on a wrong one ends the task. Rooms are joined by doors: the hallway leads to "
    "the kitchen, the bedroom, the living room, the art studio, the workshop and the greenhouse, "
    "the kitchen to the bathroom and the outside, the outside to the greenhouse and the foundry."
)


@dataclasses.dataclass(frozen=True)
class Kind:
    """One of the 30 tasks.

    Attributes:
      variations: how many there are. The simulator gives the first two quarters of them (a
        quarter rounded down) to training, the third to development, the rest to testing.
      family: key of FAMILIES.
      aim: the task in a few words; its variation has more.
      lesson: what helps with it, beside what helps with its family.
    """

    variations: int
    family: str
    aim: str
    lesson: str


FAMILIES = {
    "matter": (
        "To change the state of a substance, put it in the metal pot from the kitchen cupboard, "
        "heat or cool the pot, and look with the thermometer how warm it is."
    ),
    "measurement": (
        "A thermometer, mostly in the kitchen, is used on a thing: use thermometer on X. Focus on "
        "the thermometer first, then on the thing."
    ),
    "electricity": (
        "A circuit goes round: connect both ends of the source, anode and cathode, to terminal 1 "
        "of a wire each, and terminal 2 of the wires to the two ends of what shall have power."
    ),
    "search": (
        "To bring a thing somewhere: find it, focus on it, pick it up, go to the room with the box "
        "of the colour that is asked for, and move the thing to the box."
    ),
    "growth": (
        "A seed from the seed jar is moved to a flower pot with soil, gets water from the jug, "
        "which is filled in the sink of the greenhouse, and then needs time: wait."
    ),
    "chemistry": (
        "To make a new substance, bring its parts together in one container and mix the container."
    ),
    "lifespan": (
        "The animals whose life spans are compared are outside; looking around there names them."
    ),
    "stages": (
        "The stages of a life are focused on one after the other, from the earliest to the latest."
    ),
    "planes": (
        "To compare two inclined planes, move the block to the one, activate the stopwatch, look "
        "at the plane until the block is at the bottom, stop the time, and do it with the other."
    ),
    "genetics": (
        "To see which trait is dominant, plant the two seeds that differ, water them, close the "
        "doors, open the bee hive, wait for fruit, and grow the children from its seeds."
    ),
}

KINDS: Mapping[str, Kind] = {
    "boil": Kind(
        30,
        "matter",
        "boil a substance",
        "The stove boils water; metals need the blast furnace of the foundry.",
    ),
    "change-the-state-of-matter-of": Kind(
        30,
        "matter",
        "change the state of a substance",
        "Any change of state does: melting on the stove is as good as freezing in the freezer.",
    ),
    "chemistry-mix": Kind(
        32,
        "chemistry",
        "make a substance from a recipe",
        "The recipe lies in or near the kitchen: pick it up and read it, then focus on what came "
        "out of the mixing.",
    ),
    "chemistry-mix-paint-secondary-color": Kind(
        36,
        "chemistry",
        "mix a secondary colour",
        "Red and blue give violet, red and yellow give orange, blue and yellow give green; the "
        "paints are in the art studio.",
    ),
    "chemistry-mix-paint-tertiary-color": Kind(
        36,
        "chemistry",
        "mix a tertiary colour",
        "Mix the secondary colour first and focus on it, then add more of the other colour of "
        "its name, mix again and focus again.",
    ),
    "find-animal": Kind(
        300, "search", "find an animal", "Animals are outside, and the eggs of animals count, too."
    ),
    "find-living-thing": Kind(
        300,
        "search",
        "find a living thing",
        "Plants in the greenhouse are living things that do not run away.",
    ),
    "find-non-living-thing": Kind(
        300,
        "search",
        "find a thing that does not live",
        "Furniture and tools do not live: a chair or a cup of the room with the box is near.",
    ),
    "find-plant": Kind(
        300,
        "search",
        "find a plant",
        "Plants grow in the greenhouse; a plant is carried with its flower pot.",
    ),
    "freeze": Kind(
        30,
        "matter",
        "freeze a substance",
        "The freezer freezes water; a metal is melted first and is solid again when it cools.",
    ),
    "grow-fruit": Kind(
        126,
        "growth",
        "grow a fruit",
        "Several plants of one kind must flower while bees are there: close the doors of the "
        "greenhouse and open the bee hive. At the end, focus on the fruit.",
    ),
    "grow-plant": Kind(
        126, "growth", "grow a plant from a seed", "Focus on the seed once it is in the soil."
    ),
    "identify-life-stages-1": Kind(
        14,
        "stages",
        "name the life stages of an animal",
        "An animal outside grows while one waits: after each focus, wait until the next stage.",
    ),
    "identify-life-stages-2": Kind(
        10,
        "stages",
        "name the life stages of a plant",
        "The pots outside hold all stages: seed, seedling, adult and reproducing plant.",
    ),
    "inclined-plane-determine-angle": Kind(
        168,
        "planes",
        "tell the steeper of two planes",
        "The block is at the bottom sooner where the plane is steeper.",
    ),
    "inclined-plane-friction-named-surfaces": Kind(
        1386,
        "planes",
        "tell which of two surfaces has more friction",
        "The block is at the bottom later where there is more friction.",
    ),
    "inclined-plane-friction-unnamed-surfaces": Kind(
        162,
        "planes",
        "tell which of two unknown surfaces has more friction",
        "A longer time down the plane means more friction, whatever the material is.",
    ),
    "lifespan-longest-lived": Kind(
        125,
        "lifespan",
        "find the animal that lives longest",
        "Tortoises, turtles, crocodiles, parrots and elephants live long.",
    ),
    "lifespan-longest-lived-then-shortest-lived": Kind(
        125,
        "lifespan",
        "find the animals that live longest and shortest",
        "Focus on the one that lives longest first; an insect lives shortest.",
    ),
    "lifespan-shortest-lived": Kind(
        125,
        "lifespan",
        "find the animal that lives shortest",
        "Insects such as a dragonfly or a bee live for weeks, mice and frogs for few years.",
    ),
    "measure-melting-point-known-substance": Kind(
        436,
        "measurement",
        "measure a melting point",
        "Heat the substance in the metal pot and measure until it is liquid; then focus on the box "
        "that fits the temperature.",
    ),
    "measure-melting-point-unknown-substance": Kind(
        300,
        "measurement",
        "measure the melting point of an unknown substance",
        "Measure after every bit of heating: the temperature at which it turns liquid decides "
        "which box to focus on.",
    ),
    "melt": Kind(
        30, "matter", "melt a substance", "The stove melts most things, the blast furnace metals."
    ),
    "mendelian-genetics-known-plant": Kind(
        120,
        "genetics",
        "tell whether a trait is dominant",
        "The trait that all children of the two plants show is dominant.",
    ),
    "mendelian-genetics-unknown-plant": Kind(
        480,
        "genetics",
        "tell whether a trait of an unknown plant is dominant",
        "An unknown plant is bred like a pea: what all children show is dominant.",
    ),
    "power-component": Kind(
        20,
        "electricity",
        "give power to a device",
        "Focus on the device in the workshop first; the battery is a source.",
    ),
    "power-component-renewable-vs-nonrenewable-energy": Kind(
        20,
        "electricity",
        "give power to a device from the right source",
        "Sun and wind are renewable and work outside; gas and nuclear generators are not "
        "renewable, and are activated once they are connected.",
    ),
    "test-conductivity": Kind(
        900,
        "electricity",
        "tell whether a substance conducts",
        "Put the substance into a circuit with a light bulb: it conducts if the bulb is on.",
    ),
    "test-conductivity-of-unknown-substances": Kind(
        600,
        "electricity",
        "tell whether an unknown substance conducts",
        "Drop the unknown substance in the workshop and make it part of a circuit with a bulb: "
        "only the light tells.",
    ),
    "use-thermometer": Kind(
        540,
        "measurement",
        "measure a temperature",
        "Then move the thing to the box for its temperature.",
    ),
}
