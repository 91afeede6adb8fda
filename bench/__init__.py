"""The benchmark: named loads, peers, and what they did, with machine and commit. Start with bench/README.md.

What must not live here: anything the service needs to run. Reading order: peers, load, compare, report.
"""
