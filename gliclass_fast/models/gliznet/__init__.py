"""GliZNet: its configuration, its heads, and the reference written out."""
