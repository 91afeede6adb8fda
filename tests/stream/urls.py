"""URLs of stores that can and cannot be used, for ``inlet.stream.place`` and the settings that rely on it."""

from __future__ import annotations

SECRET = "hunter2"
"""No error and no log may show it."""
USABLE = [
    "redis://localhost",
    "redis://localhost:6379/0",
    f"rediss://user:{SECRET}@redis.example:6380/15?ssl_cert_reqs=required&client_name=inlet",
    f"redis://:{SECRET}%40%23@[::1]:6379",
    "unix:///run/redis/redis.sock",
    f"unix://user:{SECRET}@/run/redis.sock?db=2",
]
UNUSABLE = [
    "localhost:6379",
    SECRET,
    f":{SECRET}@localhost:6379",
    f"http://user:{SECRET}@localhost",
    f"redis:/user:{SECRET}@localhost",
    f"redis:user:{SECRET}@localhost",
    "redis+cluster://localhost",
    "redis+sentinel://localhost",
    f"redis://:{SECRET}",
    f"redis://user:{SECRET}@",
    f"redis://user:{SECRET}@localhost:99999",
    f"redis://user:{SECRET}@localhost:port",
    f"redis://user:{SECRET}@localhost:0",
    f"redis://user:{SECRET}#x@localhost",
    f"redis://user:{SECRET}?x@localhost",
    f"redis://user:{SECRET}/x@localhost",
    f"redis://user:{SECRET}@x@localhost/zero",
    f"redis://user:{SECRET}@local host",
    f"redis://user:{SECRET}\n@localhost",
    f"redis://user:{SECRET}@localhost/0/1",
    f"redis://user:{SECRET}@[::1",
    f"redis://localhost?password={SECRET}",
    "redis://localhost?socket_timeout=600",
    "redis://localhost?retry_on_timeout=1",
    "redis://localhost?db=x",
    "redis://localhost/0#1",
    "redis:///0",
    "redis://",
    "unix://",
    "unix:///",
    "unix://data/valkey.sock",
    "unix:data.sock",
]
