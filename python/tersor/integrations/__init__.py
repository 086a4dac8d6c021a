"""Other libraries that know tersor's files: each module needs the one that it is named after."""
