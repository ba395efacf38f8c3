"""What the user asked for: fields, where each value came from, and the defaults that learn."""
