"""Files that are written whole or not at all, and what a full disk or a changed byte means for them."""
