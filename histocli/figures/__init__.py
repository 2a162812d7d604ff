"""Pictures, charts and reports for people, drawn from arrays."""
