"""python deploy/healthy.py URL: exit 0 where it answers 200. The images have no curl."""

import sys
from urllib.request import urlopen

try:
    urlopen(sys.argv[1], timeout=5).close()
except OSError as error:  # refused, no answer in time, another status
    sys.exit(f"{sys.argv[1]}: {error}")
