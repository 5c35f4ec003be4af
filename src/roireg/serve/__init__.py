"""The viewer's server: sessions of one image pair each, over HTTP on this computer alone.

Importing this package loads neither torch nor a web framework; `roireg.serve.running` does, when a server starts.
"""
