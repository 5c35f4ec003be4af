"""The command line: files in, files and a summary out; no algorithm lives here."""
