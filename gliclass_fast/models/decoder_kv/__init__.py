"""`decoder-kv`: these modules hold its scorer, which reads hidden states of label sections."""
