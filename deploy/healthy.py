"""python deploy/healthy.py URL: exit 0 where it answers 200. The images have no curl."""

import sys
from urllib.request import urlopen

urlopen(sys.argv[1], timeout=5)  # HTTPError and URLError end it with 1
