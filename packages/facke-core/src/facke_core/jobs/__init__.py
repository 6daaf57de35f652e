"""Jobs swap or measure many pictures, on one machine or many."""
