"""The commands, one module each: options in, a call of the library, text out."""
