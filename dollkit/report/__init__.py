"""The evidence: from per-case rows to tables, figures and a verdict on each claim."""
