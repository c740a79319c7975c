"""The tests of wsflow."""

import os
import sys
from pathlib import Path

# The tests start hundreds of processes that import the same modules. What Python compiles is kept
# for the next one; out of the tree, so that it may be kept even if PYTHONDONTWRITEBYTECODE is set.
BYTECODE = str(Path(__file__).parents[1] / "build" / "bytecode")
sys.dont_write_bytecode, sys.pycache_prefix = False, BYTECODE
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.environ["PYTHONPYCACHEPREFIX"] = BYTECODE
