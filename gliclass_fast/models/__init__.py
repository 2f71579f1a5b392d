"""The networks: every architecture, backbone and scorer has a file."""
