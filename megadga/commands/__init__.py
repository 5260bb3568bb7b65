"""What each command of `megadga` takes and does; `megadga.cli` finds them by name."""
