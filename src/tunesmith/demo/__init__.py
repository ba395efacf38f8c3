"""The embedded demo: a household assistant that answers each request with one JSON call."""
