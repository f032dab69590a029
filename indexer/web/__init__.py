"""The web: Datasette on the index, with pages and endpoints of our own."""
