"""The coordinate check: networks of several widths and depths, trained for a few steps."""
