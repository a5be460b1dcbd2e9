"""A page that draws audio in the browser alone, for `python -m wavflow.export page=true`."""
