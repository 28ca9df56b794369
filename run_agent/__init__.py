"""The parts a replica is made of: settings, controller, slug, release, node, health, logs.

Each module owns one side effect (the environment, spawning, extracted files, HTTP out) and hands
frozen dataclasses to the others. Nothing here composes the parts or talks to a person: that is
`entrypoint`. This package imports neither `entrypoint` nor `upgrade`.
"""

__version__ = "0.1.0"
