"""What people read of outcomes and studies; nothing here decides anything."""
