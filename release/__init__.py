"""Tools for those who make a release: locks and fresh machines. Not installed with the gateway."""
