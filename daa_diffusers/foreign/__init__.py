"""Networks of other libraries as restorers."""
