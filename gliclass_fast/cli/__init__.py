"""The command line: gliclass-fast classify | info | check | bench."""
