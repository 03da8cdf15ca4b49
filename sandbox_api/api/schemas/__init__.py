"""What goes over the wire, as pydantic models with the names that clients use."""
