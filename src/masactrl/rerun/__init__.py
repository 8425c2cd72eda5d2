"""A recipe read back: the request, the command and the pictures again."""
