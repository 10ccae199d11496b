"""A simulated GPIO chip, to which the real libgpiod talks through a preloaded shim."""
