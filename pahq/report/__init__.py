"""What people look at: a circuit drawn, as text, as a page to explore, and beside another one."""
