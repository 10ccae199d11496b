"""What it costs: measured, with the floor of each thing beside it."""
