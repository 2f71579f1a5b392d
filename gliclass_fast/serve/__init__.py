"""The reference's module path for serving, `gliclass.serve`; what it names is in `gliclass_fast.serving`."""
