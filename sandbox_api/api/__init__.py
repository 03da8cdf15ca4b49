"""The HTTP edge: requests to values, values to replies. Knows nothing of the operating system."""
