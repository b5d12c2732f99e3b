"""What is running on this host and the others: gathered here, shown by commands, judged by the monitor."""
