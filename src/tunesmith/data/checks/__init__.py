"""What can be wrong with data: one module a subject, all of them speaking in findings."""
