"""One method, one file; the file's name is the method's."""
