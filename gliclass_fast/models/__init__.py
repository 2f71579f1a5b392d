"""The networks: architectures, backbones and scorers, one file each."""
