"""What people read of outcomes. Decides nothing."""
