"""What a run will take of memory, time and communication, by formulas over plain numbers."""
