"""How the output of a module changes when its own parameters move along a direction."""
