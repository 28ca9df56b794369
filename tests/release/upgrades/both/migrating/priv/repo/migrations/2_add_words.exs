# add_words: the Ecto.Migrator of the example reads the name of this file only.
