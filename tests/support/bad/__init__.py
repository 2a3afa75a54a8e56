"""Bad input, by its kind: what is typed (``tests/files/bad_words.txt``) and what files hold."""
