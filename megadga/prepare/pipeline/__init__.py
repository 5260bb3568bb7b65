"""From files of records to folders of shards, by any number of workers, killed or not."""
