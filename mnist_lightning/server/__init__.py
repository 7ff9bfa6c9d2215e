"""A JSON service and a page to draw on, both without torch."""
