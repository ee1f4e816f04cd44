"""What travels between Offload's services: one typed object per task, and nothing else.

Names are ``noun.verb.vN``. A contract is frozen once it is released: fields are only ever added, with defaults, and
anything else is a new version. On the wire unknown fields are ignored, so that a worker reads a newer gateway's
messages. Keys and ids travel, never bytes or secrets.
"""
