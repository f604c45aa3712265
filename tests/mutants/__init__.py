"""Small changes of the package that its tests must notice."""
