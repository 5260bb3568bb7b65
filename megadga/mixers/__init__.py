"""Rules that set the domains' weights, one file per rule: options and numpy scheduler."""
