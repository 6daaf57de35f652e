"""Many pictures, on one machine or many."""
