"""Receivers: one module a wire protocol, and the pipeline that all of them share."""
