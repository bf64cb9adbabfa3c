"""What each kind of stage does, given its context: write data, import a base model, train, evaluate."""
