"""The demonstration: a whole site on simulated hardware, and a scripted morning."""
