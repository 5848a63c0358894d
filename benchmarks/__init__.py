"""What this machine reaches. Every figure comes with the row count that proves the work was done."""
