"""Makes the broker URLs that begin with ``offload+`` known to kombu.

kombu has no plug-ins for transports, but Celery lets it load those for serializers before any URL is read: this module
is one of them. The serializer that it gives is JSON by another name, and nobody uses it. Nothing else may be imported
here, because kombu is only half imported by then.
"""

from __future__ import annotations

import json
from typing import Final

from kombu.transport import TRANSPORT_ALIASES

SCHEME: Final = "offload"

TRANSPORT_ALIASES[SCHEME] = "offload_worker.adoption.transport:Transport"
SERIALIZER: Final = (json.dumps, json.loads, "application/x-offload+json", "utf-8")
