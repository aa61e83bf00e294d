"""The commands, a file each, under the name that is typed: ``command`` is the function."""
