"""Which of several vectors are better than others, every number of them to be minimised."""
