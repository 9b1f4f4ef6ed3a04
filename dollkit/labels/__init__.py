"""DoLL labels: how they come out of explanations, and the label set on disk (`store`)."""
