"""The server behind `python -m wavflow.serve`: audio, likelihoods and streams over HTTP and WebSocket."""
