"""The socket between the processes: the core serves it, everything else is a client."""
