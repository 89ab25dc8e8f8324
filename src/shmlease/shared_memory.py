"""`multiprocessing.shared_memory` on leases: the same classes, imported from here."""

from shmlease.integrations.shared_memory import ShareableList, SharedMemory
from shmlease.integrations.shared_memory_manager import SharedMemoryManager

__all__ = ["ShareableList", "SharedMemory", "SharedMemoryManager"]
