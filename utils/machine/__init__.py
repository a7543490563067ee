"""Where it runs: devices, precisions, files."""
