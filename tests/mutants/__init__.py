"""Safety rules broken on purpose, one patch each, and the program that shows that a test notices every one of them."""
