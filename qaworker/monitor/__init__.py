"""One look at what runs, for hosts without Prometheus: what is wrong, and who has been told."""
