"""In every Python process that has this directory in PYTHONPATH, shmlease's classes take the standard library's places.

That is what a program does that changes its import, and all libraries that it uses.
"""

import multiprocessing.managers
import multiprocessing.shared_memory

from shmlease.shared_memory import ShareableList, SharedMemory, SharedMemoryManager

multiprocessing.shared_memory.SharedMemory = SharedMemory
multiprocessing.shared_memory.ShareableList = ShareableList
multiprocessing.managers.SharedMemoryManager = SharedMemoryManager
