"""Tables, intervals and pictures, for whoever has something to show."""
