"""The phased server: a gunicorn worker class that runs any WSGI application (PEP 3333) on uvloop.

Start with ``turn``: it calls the application for every request that is ready, and only then iterates the answers.
Before it, ``connection`` turns bytes into requests (``head``, ``chunked``); after it, ``exchange`` writes an answer
(``response``). ``worker`` is the process, ``limits`` has every bound, ``states`` every move of a connection. Nothing
here knows the application: a refusal is rendered by a function that the configuration hands in (``refusal``).
"""
