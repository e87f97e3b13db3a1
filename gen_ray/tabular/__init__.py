"""Tables: the types of their columns, and the conversion between values and codes."""
