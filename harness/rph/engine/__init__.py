"""The protocol run: names become plugins and data, cells are trained, stored and read back."""
