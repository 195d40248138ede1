"""Does the server in this container live? Exit status 0 where /health answers 200, else 1 and the reason.

Run by the HEALTHCHECK of the images, each time in a new process: the standard library only, and of that what starts
fast. No proxy is asked, which urllib would do where the container has one for downloads.
"""

from __future__ import annotations

import http.client
import os
import sys

SECONDS = 4  # for an answer; less than the timeout of HEALTHCHECK, so that the reason can still be told
ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # where a server that listens everywhere is asked


def main() -> int:
    host = os.environ.get("QUIRE_HOST", "0.0.0.0")
    port = os.environ.get("QUIRE_PORT", "8000")
    try:
        connection = http.client.HTTPConnection(ANYWHERE.get(host, host), int(port), timeout=SECONDS)
        connection.request("GET", "/health")
        status = connection.getresponse().status
    except (OSError, ValueError, http.client.HTTPException) as error:
        print(f"/health of {host}:{port} cannot be asked: {error!r}")
        return 1
    print(f"/health of {host}:{port} says {status}; expected 200")
    return 0 if status == 200 else 1


if __name__ == "__main__":
    sys.exit(main())
