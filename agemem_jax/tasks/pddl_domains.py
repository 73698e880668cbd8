"""The four planning domains in PDDL, for generated problems.

They mean the same as AgentBoard's of the same names (predicates, actions, order of arguments),
so that one environment, one wording and one expert serve both. Tests compare the two.
"""

_GRIPPER = """
(define (domain gripper-strips)
  (:requirements :strips)
  (:predicates (room ?room) (ball ?ball) (gripper ?hand)
    (at-robby ?room) (at ?ball ?room) (free ?hand) (carry ?ball ?hand))
  (:action move :parameters (?here ?there)
    :precondition (and (at-robby ?here) (room ?here) (room ?there))
    :effect (and (not (at-robby ?here)) (at-robby ?there)))
  (:action pick :parameters (?ball ?room ?hand)
    :precondition (and (at-robby ?room) (at ?ball ?room) (free ?hand)
      (ball ?ball) (room ?room) (gripper ?hand))
    :effect (and (not (at ?ball ?room)) (not (free ?hand)) (carry ?ball ?hand)))
  (:action drop :parameters (?ball ?room ?hand)
    :precondition (and (at-robby ?room) (carry ?ball ?hand)
      (ball ?ball) (room ?room) (gripper ?hand))
    :effect (and (not (carry ?ball ?hand)) (at ?ball ?room) (free ?hand))))
"""

_BLOCKWORLD = """
(define (domain blocksworld-4ops)
  (:requirements :strips)
  (:predicates (on ?block ?under) (on-table ?block) (clear ?block) (holding ?block) (arm-empty))
  (:action pickup :parameters (?block)
    :precondition (and (arm-empty) (on-table ?block) (clear ?block))
    :effect (and (not (arm-empty)) (not (on-table ?block)) (not (clear ?block))
      (holding ?block)))
  (:action putdown :parameters (?block)
    :precondition (holding ?block)
    :effect (and (not (holding ?block)) (on-table ?block) (clear ?block) (arm-empty)))
  (:action stack :parameters (?block ?under)
    :precondition (and (holding ?block) (clear ?under))
    :effect (and (not (holding ?block)) (not (clear ?under))
      (on ?block ?under) (clear ?block) (arm-empty)))
  (:action unstack :parameters (?block ?under)
    :precondition (and (arm-empty) (clear ?block) (on ?block ?under))
    :effect (and (not (arm-empty)) (not (clear ?block)) (not (on ?block ?under))
      (holding ?block) (clear ?under))))
"""

_BARMAN = """
(define (domain barman)
  (:requirements :strips :typing)
  (:types hand level beverage dispenser container - object
    ingredient cocktail - beverage
    shot shaker - container)
  (:predicates
    (ontable ?vessel - container) (holding ?hand - hand ?vessel - container)
    (handempty ?hand - hand) (empty ?vessel - container) (clean ?vessel - container)
    (contains ?vessel - container ?drink - beverage)
    (used ?vessel - container ?drink - beverage)
    (dispenses ?tap - dispenser ?part - ingredient)
    (shaker-empty-level ?shaker - shaker ?level - level)
    (shaker-level ?shaker - shaker ?level - level) (next ?lower - level ?upper - level)
    (unshaked ?shaker - shaker) (shaked ?shaker - shaker)
    (cocktail-part1 ?drink - cocktail ?part - ingredient)
    (cocktail-part2 ?drink - cocktail ?part - ingredient))
  (:action grasp :parameters (?hand - hand ?vessel - container)
    :precondition (and (handempty ?hand) (ontable ?vessel))
    :effect (and (not (handempty ?hand)) (not (ontable ?vessel)) (holding ?hand ?vessel)))
  (:action leave :parameters (?hand - hand ?vessel - container)
    :precondition (holding ?hand ?vessel)
    :effect (and (not (holding ?hand ?vessel)) (handempty ?hand) (ontable ?vessel)))
  (:action fill-shot
    :parameters (?shot - shot ?part - ingredient ?hand - hand ?other - hand ?tap - dispenser)
    :precondition (and (holding ?hand ?shot) (handempty ?other) (dispenses ?tap ?part)
      (empty ?shot) (clean ?shot))
    :effect (and (not (empty ?shot)) (not (clean ?shot)) (contains ?shot ?part)
      (used ?shot ?part)))
  (:action refill-shot
    :parameters (?shot - shot ?part - ingredient ?hand - hand ?other - hand ?tap - dispenser)
    :precondition (and (holding ?hand ?shot) (handempty ?other) (dispenses ?tap ?part)
      (empty ?shot) (used ?shot ?part))
    :effect (and (not (empty ?shot)) (contains ?shot ?part)))
  (:action empty-shot :parameters (?hand - hand ?shot - shot ?drink - beverage)
    :precondition (and (holding ?hand ?shot) (contains ?shot ?drink))
    :effect (and (not (contains ?shot ?drink)) (empty ?shot)))
  (:action clean-shot
    :parameters (?shot - shot ?drink - beverage ?hand - hand ?other - hand)
    :precondition (and (holding ?hand ?shot) (handempty ?other) (empty ?shot)
      (used ?shot ?drink))
    :effect (and (not (used ?shot ?drink)) (clean ?shot)))
  (:action pour-shot-to-clean-shaker
    :parameters (?shot - shot ?part - ingredient ?shaker - shaker ?hand - hand
      ?low - level ?high - level)
    :precondition (and (holding ?hand ?shot) (contains ?shot ?part) (empty ?shaker)
      (clean ?shaker) (shaker-level ?shaker ?low) (next ?low ?high))
    :effect (and (not (contains ?shot ?part)) (empty ?shot) (contains ?shaker ?part)
      (not (empty ?shaker)) (not (clean ?shaker)) (unshaked ?shaker)
      (not (shaker-level ?shaker ?low)) (shaker-level ?shaker ?high)))
  (:action pour-shot-to-used-shaker
    :parameters (?shot - shot ?part - ingredient ?shaker - shaker ?hand - hand
      ?low - level ?high - level)
    :precondition (and (holding ?hand ?shot) (contains ?shot ?part) (unshaked ?shaker)
      (shaker-level ?shaker ?low) (next ?low ?high))
    :effect (and (not (contains ?shot ?part)) (empty ?shot) (contains ?shaker ?part)
      (not (shaker-level ?shaker ?low)) (shaker-level ?shaker ?high)))
  (:action empty-shaker
    :parameters (?hand - hand ?shaker - shaker ?drink - cocktail ?level - level ?none - level)
    :precondition (and (holding ?hand ?shaker) (contains ?shaker ?drink) (shaked ?shaker)
      (shaker-level ?shaker ?level) (shaker-empty-level ?shaker ?none))
    :effect (and (not (contains ?shaker ?drink)) (empty ?shaker) (not (shaked ?shaker))
      (not (shaker-level ?shaker ?level)) (shaker-level ?shaker ?none)))
  (:action clean-shaker :parameters (?hand - hand ?other - hand ?shaker - shaker)
    :precondition (and (holding ?hand ?shaker) (handempty ?other) (empty ?shaker))
    :effect (clean ?shaker))
  (:action shake
    :parameters (?drink - cocktail ?one - ingredient ?two - ingredient ?shaker - shaker
      ?hand - hand ?other - hand)
    :precondition (and (holding ?hand ?shaker) (handempty ?other) (unshaked ?shaker)
      (contains ?shaker ?one) (contains ?shaker ?two)
      (cocktail-part1 ?drink ?one) (cocktail-part2 ?drink ?two))
    :effect (and (not (unshaked ?shaker)) (shaked ?shaker) (contains ?shaker ?drink)
      (not (contains ?shaker ?one)) (not (contains ?shaker ?two))))
  (:action pour-shaker-to-shot
    :parameters (?drink - beverage ?shot - shot ?hand - hand ?shaker - shaker
      ?high - level ?low - level)
    :precondition (and (holding ?hand ?shaker) (shaked ?shaker) (contains ?shaker ?drink)
      (empty ?shot) (clean ?shot) (shaker-level ?shaker ?high) (next ?low ?high))
    :effect (and (not (empty ?shot)) (not (clean ?shot)) (contains ?shot ?drink)
      (not (shaker-level ?shaker ?high)) (shaker-level ?shaker ?low))))
"""

_TYREWORLD = """
(define (domain tyreworld)
  (:requirements :strips :typing)
  (:types thing container hub - object
    tool wheel nut - thing)
  (:constants wrench pump jack - tool)
  (:predicates
    (isopen ?box - container) (closed ?box - container) (unlocked ?box - container)
    (have ?thing - thing) (in ?thing - thing ?box - container)
    (loose ?nuts - nut ?hub - hub) (tight ?nuts - nut ?hub - hub)
    (on-ground ?hub - hub) (not-on-ground ?hub - hub)
    (fastened ?hub - hub) (unfastened ?hub - hub) (free ?hub - hub)
    (on ?wheel - wheel ?hub - hub) (intact ?wheel - wheel)
    (inflated ?wheel - wheel) (not-inflated ?wheel - wheel))
  (:action open :parameters (?box - container)
    :precondition (and (closed ?box) (unlocked ?box))
    :effect (and (not (closed ?box)) (isopen ?box)))
  (:action close :parameters (?box - container)
    :precondition (isopen ?box)
    :effect (and (not (isopen ?box)) (closed ?box)))
  (:action fetch :parameters (?thing - thing ?box - container)
    :precondition (and (isopen ?box) (in ?thing ?box))
    :effect (and (not (in ?thing ?box)) (have ?thing)))
  (:action put-away :parameters (?thing - thing ?box - container)
    :precondition (and (isopen ?box) (have ?thing))
    :effect (and (not (have ?thing)) (in ?thing ?box)))
  (:action loosen :parameters (?nuts - nut ?hub - hub)
    :precondition (and (have wrench) (on-ground ?hub) (tight ?nuts ?hub))
    :effect (and (not (tight ?nuts ?hub)) (loose ?nuts ?hub)))
  (:action tighten :parameters (?nuts - nut ?hub - hub)
    :precondition (and (have wrench) (on-ground ?hub) (loose ?nuts ?hub))
    :effect (and (not (loose ?nuts ?hub)) (tight ?nuts ?hub)))
  (:action jack-up :parameters (?hub - hub)
    :precondition (and (have jack) (on-ground ?hub))
    :effect (and (not (have jack)) (not (on-ground ?hub)) (not-on-ground ?hub)))
  (:action jack-down :parameters (?hub - hub)
    :precondition (not-on-ground ?hub)
    :effect (and (not (not-on-ground ?hub)) (on-ground ?hub) (have jack)))
  (:action undo :parameters (?nuts - nut ?hub - hub)
    :precondition (and (have wrench) (not-on-ground ?hub) (fastened ?hub) (loose ?nuts ?hub))
    :effect (and (not (loose ?nuts ?hub)) (not (fastened ?hub)) (unfastened ?hub)
      (have ?nuts)))
  (:action do-up :parameters (?nuts - nut ?hub - hub)
    :precondition (and (have wrench) (have ?nuts) (not-on-ground ?hub) (unfastened ?hub))
    :effect (and (not (have ?nuts)) (not (unfastened ?hub)) (fastened ?hub)
      (loose ?nuts ?hub)))
  (:action remove-wheel :parameters (?wheel - wheel ?hub - hub)
    :precondition (and (not-on-ground ?hub) (unfastened ?hub) (on ?wheel ?hub))
    :effect (and (not (on ?wheel ?hub)) (free ?hub) (have ?wheel)))
  (:action put-on-wheel :parameters (?wheel - wheel ?hub - hub)
    :precondition (and (not-on-ground ?hub) (unfastened ?hub) (free ?hub) (have ?wheel))
    :effect (and (not (have ?wheel)) (not (free ?hub)) (on ?wheel ?hub)))
  (:action inflate :parameters (?wheel - wheel)
    :precondition (and (have pump) (intact ?wheel) (not-inflated ?wheel))
    :effect (and (not (not-inflated ?wheel)) (inflated ?wheel))))
"""

# By the name that AgentBoard gives a domain's folder, in its order.
DOMAIN_TEXTS = {
    "gripper": _GRIPPER,
    "blockworld": _BLOCKWORLD,
    "barman": _BARMAN,
    "tyreworld": _TYREWORLD,
}

# The name inside of the PDDL texts.
PDDL_NAMES = {
    "gripper": "gripper-strips",
    "blockworld": "blocksworld-4ops",
    "barman": "barman",
    "tyreworld": "tyreworld",
}
