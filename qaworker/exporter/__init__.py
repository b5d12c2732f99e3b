"""The exporter: what Redis knows of queues, workers, limits and counts, for Prometheus to scrape."""
