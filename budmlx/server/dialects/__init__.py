"""The protocols that clients speak, a folder for each. They import nothing of each other."""
