"""From a resolved recipe to objects."""
