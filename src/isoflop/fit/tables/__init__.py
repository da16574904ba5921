"""A user's own runs and points, read from files and folders of logs."""
