"""What the gateway costs: one module a measurement, each beside its floor."""
