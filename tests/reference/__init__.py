"""A second, slow and obvious reading of the specification, written without sight of the first."""
