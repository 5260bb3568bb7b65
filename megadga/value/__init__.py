"""What trained sequences were worth: values by the trace of a run, and schedules of them."""
