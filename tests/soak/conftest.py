"""An hour of mixed load with faults; the helpers are those of tests/netns.

  MESHNODE_SCALE=1 /usr/bin/python3 -m pytest -s tests/soak      the whole hour
"""

import importlib.util
import os
import sys

NETNS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "netns")
sys.path.insert(0, NETNS)
_spec = importlib.util.spec_from_file_location("netns_conftest", os.path.join(NETNS, "conftest.py"))
_shared = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_shared)
# Its fixtures and hooks hold here as they do there.
globals().update({name: value for name, value in vars(_shared).items()
                  if not name.startswith("__")})
