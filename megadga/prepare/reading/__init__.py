"""Files of records, in any of their formats, to texts that are good or refused."""
