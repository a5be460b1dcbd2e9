"""The report: one page to look and listen, its tables and pictures, and the listening test."""
