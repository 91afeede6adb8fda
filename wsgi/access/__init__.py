"""Who may send what: keys and their rights, quotas, and the origins of web pages. Before a body is read.

What lives here: the decisions, each as an exception of ``wsgi.problems`` or none. What must not: HTTP parsing, bodies,
records, Falcon, Redis, the server.
"""
