"""Values and their maths; imports nothing else of this package."""
