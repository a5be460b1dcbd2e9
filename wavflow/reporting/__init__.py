"""Tables, intervals and pictures of results."""
