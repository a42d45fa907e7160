"""The process: flags, configurations, files, signals, several processes."""
