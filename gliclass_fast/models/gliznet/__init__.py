"""GliZNet: these modules hold its configuration, its heads and its network."""
