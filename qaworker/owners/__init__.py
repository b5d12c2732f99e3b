"""What owns the worker processes of this host, and how it is told to start and stop them."""
